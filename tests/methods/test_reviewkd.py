"""ReviewKD: which stages it matches, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from random_outputs import STAGES, built, outputs
from stub_nets import stub_batch, stub_net, stub_setup

from kdbench.methods import (
    reviewkd,
)

pytestmark = pytest.mark.once


def test_reviewkd_matches_the_deepest_stages_and_refuses_what_cannot_work() -> None:
    shallow, deep = stub_net(shapes=STAGES[1:], preact=False), stub_net(width=12, shapes=STAGES)
    method = reviewkd.ReviewKD(reviewkd.ReviewKD.Config(), stub_setup(shallow, deep))
    assert method.num_stages == 1
    assert [block.conv2[0].out_channels for block in method.abfs] == [12, 6]
    with pytest.raises(ValueError, match="student_preact"):
        reviewkd.ReviewKD(reviewkd.ReviewKD.Config(student_preact=True), stub_setup(shallow, deep))
    with pytest.raises(ValueError, match="stages"):
        reviewkd.ReviewKD(reviewkd.ReviewKD.Config(), stub_setup(stub_net(), deep))
    module = built(reviewkd.ReviewKD)
    with pytest.raises(ValueError, match="batch of one image"):
        module.loss(outputs("student", 1), outputs("teacher", 1), stub_batch(torch.tensor([0])))
