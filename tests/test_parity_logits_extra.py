"""Stored values and properties of CTKD and MLLD."""

from __future__ import annotations

import math

import pytest
import torch
from parity_files import load, names
from stub_nets import stub_batch, stub_net, stub_setup
from test_parity_losses import sides, total

from kdbench.methods import ctkd
from kdbench.methods.ce import cross_entropy
from kdbench.methods.kd import kl_per_image
from kdbench.net import Outputs

pytestmark = pytest.mark.once

# --- CTKD ---


@pytest.mark.parametrize("name", sorted(set(names("ctkd")) - {"schedule"}))
def test_ctkd(name: str) -> None:
    case = load("ctkd", name)
    student, teacher, targets = sides(case)
    assert (case.value("hp.decay_max"), case.value("hp.decay_min")) == (0, -1)
    config = ctkd.CTKD.Config(
        ce_weight=case.value("hp.ce_weight"),
        kd_weight=case.value("hp.kl_weight"),
        min_temperature=case.value("hp.t_start"),
        temperature_range=case.value("hp.t_end"),
        warmup=case.value("hp.decay_loops") / 240,
    )
    assert config == ctkd.CTKD.Config()
    net = stub_net(num_classes=student.shape[1])
    method = ctkd.CTKD(config, stub_setup(net, net)).double()
    method.load_state_dict({"logit": case.tensor("w.global_T")[0]})
    batch = stub_batch(targets, epoch=int(case.value("hp.epoch")))
    case.check("out.lambda", ctkd.reversal(batch.progress, config.warmup))
    case.check("out.temperature", method.temperature())
    case.check("out.ce", cross_entropy(student, targets).mean())
    case.check("out.kl", kl_per_image(student, teacher, method.temperature()).mean())
    loss = total(method.loss(Outputs("student", logits=student), Outputs("teacher", logits=teacher), batch))
    case.check("out.total", loss)
    loss.backward()
    assert method.logit.grad is not None
    case.check("grad.w.global_T", method.logit.grad)
    case.check("grad.logits_s", student.grad)


def test_ctkds_schedule() -> None:
    case = load("ctkd", "schedule")
    factors = [ctkd.reversal(epoch / 240, case.value("hp.decay_loops") / 240) for epoch in case.arrays["in.epoch"]]
    case.check("out.lambda", torch.tensor(factors, dtype=torch.float64))
    assert ctkd.reversal(1 / 240, 0.0) == -1


def test_ctkds_temperature_starts_high_and_climbs_the_loss() -> None:
    """A step against its gradient raises the divergence that the student's step lowers."""
    net = stub_net()
    method = ctkd.CTKD(ctkd.CTKD.Config(ce_weight=0.0), stub_setup(net, net)).double()
    assert method.temperature().item() == pytest.approx(1 + 20 / (1 + math.exp(-1)))
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(6, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()

    def divergence() -> torch.Tensor:
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
