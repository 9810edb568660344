"""CTKD: its temperature and its schedule."""

from __future__ import annotations

import math

import pytest
import torch
from stub_nets import stub_batch, stub_net, stub_setup
from torch import Tensor

from kdbench.methods import ctkd
from kdbench.net import Outputs

pytestmark = pytest.mark.once


def test_ctkd_reverses_at_once_without_a_warm_up() -> None:
    assert ctkd.reversal(1 / 240, 0.0) == -1


def test_ctkds_temperature_starts_high_and_climbs_the_loss() -> None:
    """A step against its gradient raises the divergence that the student's step lowers."""
    net = stub_net()
    method = ctkd.CTKD(ctkd.CTKD.Config(ce_weight=0.0), stub_setup(net, net)).double()
    assert method.temperature().item() == pytest.approx(1 + 20 / (1 + math.exp(-1)))
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(6, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()

    def divergence() -> Tensor:
        batch = stub_batch(torch.arange(6), epoch=200)
        return method.loss(Outputs("student", logits=student), Outputs("teacher", logits=teacher), batch)["kd"]

    before = divergence()
    before.backward()
    assert method.logit.grad is not None
    assert student.grad is not None
    with torch.no_grad():
        method.logit -= 1e-3 * method.logit.grad
        assert divergence() > before
        method.logit += 1e-3 * method.logit.grad
        student -= 1e-3 * student.grad
        assert divergence() < before
