"""MGD: masked channels, and maps of one size."""

from __future__ import annotations

import pytest
from random_maps import maps
from random_outputs import rng
from stub_nets import stub_net, stub_setup

from kdbench.methods import mgd

pytestmark = pytest.mark.once


def test_channels_are_hidden_as_often_as_the_ratio_says() -> None:
    kept = mgd.kept_channels(400, 50, 0.15, rng(0))
    assert kept.float().mean().item() == pytest.approx(0.85, abs=0.01)
    assert mgd.kept_channels(4, 5, 0.0, rng(0)).all()
    assert not mgd.kept_channels(4, 5, 1.0, rng(0)).any()


def test_the_error_is_summed_over_a_map_and_averaged_over_images() -> None:
    ours = maps(0)
    assert mgd.mgd_loss(ours, ours) == 0
    assert mgd.mgd_loss(ours + 0.5, ours).item() == pytest.approx(0.25 * 5 * 4 * 4)


def test_maps_of_two_sizes_are_refused() -> None:
    nets = [stub_net(shapes=[(4, size, size)]) for size in (4, 8)]
    with pytest.raises(ValueError, match="one size, not stub's 4 x 4 and stub's 8 x 8: choose another network"):
        mgd.MGD(mgd.MGD.Config(), stub_setup(*nets))
