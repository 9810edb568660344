"""NKD: the term of the other classes."""

from __future__ import annotations

import pytest
import torch
from random_outputs import random_scores
from stub_nets import stub_net, stub_setup

from kdbench.methods import nkd

pytestmark = pytest.mark.once


def test_nkds_other_classes_have_no_gradient_at_the_teacher() -> None:
    logits, targets = random_scores(0).requires_grad_(), torch.tensor([0, 3, 1, 1, 6, 2])
    (gradient,) = torch.autograd.grad(nkd.others_loss(logits, logits.detach(), targets, 2.0), logits)
    assert gradient.abs().max() < 1e-12
    net = stub_net(num_classes=2)
    with pytest.raises(ValueError, match="at least 3 classes"):
        nkd.NKD(nkd.NKD.Config(), stub_setup(net, net))
