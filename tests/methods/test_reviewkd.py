"""ReviewKD: which stages it matches, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from random_maps import maps
from random_outputs import STAGES, built
from stub_nets import stub_net, stub_setup
from torch.nn import functional

from kdbench.methods import (
    reviewkd,
)

pytestmark = pytest.mark.once


def test_reviewkd_matches_the_deepest_stages_and_refuses_what_cannot_work() -> None:
    shallow, deep = stub_net(shapes=STAGES[1:], preact=False), stub_net(width=12, shapes=STAGES)
    method = reviewkd.ReviewKD(reviewkd.ReviewKD.Config(), stub_setup(shallow, deep))
    assert [block.conv2[0].out_channels for block in method.abfs] == [12, 6]
    with pytest.raises(ValueError, match="student_preact"):
        reviewkd.ReviewKD(reviewkd.ReviewKD.Config(student_preact=True), stub_setup(shallow, deep))
    with pytest.raises(ValueError, match="at least 1 stage"):
        reviewkd.ReviewKD(reviewkd.ReviewKD.Config(), stub_setup(stub_net(), deep))
    assert built(reviewkd.ReviewKD).min_images == 2


@pytest.mark.parametrize("size", [(12, 12), (7, 7), (6, 9), (8, 5)])
def test_differences_are_pooled_as_the_maps_would_be_also_where_windows_overlap(size: tuple[int, int]) -> None:
    ours, theirs = (maps(seed, size=12)[:, :, : size[0], : size[1]] for seed in range(2))
    pooled = [[functional.adaptive_avg_pool2d(each, side) for each in (ours, theirs)] for side in (4, 2, 1)]
    errors = [functional.mse_loss(*pair) for pair in ([ours, theirs], *pooled)]
    expected = sum(error / 2**number for number, error in enumerate(errors)) / (2 - 2**-3)
    torch.testing.assert_close(reviewkd.hcl_loss(ours, theirs), expected)


def test_weights_of_a_mixture_are_those_of_both_maps_behind_each_other() -> None:
    block = reviewkd.Fusion(3, 4, 5, fuse=True).double()
    assert block.att_conv is not None
    mixed, deeper = maps(0, channels=4, size=8), maps(1, channels=4, size=4)
    large = functional.interpolate(deeper, (8, 8), mode="nearest")
    attention = block.att_conv(torch.cat([mixed, large], dim=1))
    torch.testing.assert_close(block.attend(mixed, deeper), mixed * attention[:, :1] + large * attention[:, 1:])
