"""ReviewKD: which stages it matches, and what it refuses."""

from __future__ import annotations

import pytest
from random_outputs import STAGES, built
from stub_nets import stub_net, stub_setup

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
