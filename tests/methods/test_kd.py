"""KL divergences of logits, and standardised logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_outputs import (
    random_logits,
    random_scores,
    rng,
    seeds,
    temperatures,
    total,
)
from stub_nets import stub_batch, stub_net, stub_setup

from kdbench.config import deciding
from kdbench.experiment.settings import resolve_settings
from kdbench.methods import (
    dkd,
    kd,
)
from kdbench.net import Outputs

pytestmark = pytest.mark.once

KL_LOSSES = {
    "kd": lambda student, teacher, targets, temperature: kd.kl_per_image(student, teacher, temperature).mean(),
    "tckd": dkd.tckd_loss,
    "nckd": dkd.nckd_loss,
}


@pytest.mark.parametrize("name", KL_LOSSES)
@given(seed=seeds, temperature=temperatures)
@settings(max_examples=20, deadline=None)
def test_kl_is_zero_with_zero_gradient_where_student_is_teacher(name: str, seed: int, temperature: float) -> None:
    student, _, targets = random_logits(seed)
    student.requires_grad_()
    loss = KL_LOSSES[name](student, student.detach().clone(), targets, temperature)
    (gradient,) = torch.autograd.grad(loss, student)
    assert abs(loss.item()) < 1e-12
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("name", KL_LOSSES)
@given(seed=seeds, temperature=temperatures, shift=st.floats(-30, 30))
@settings(max_examples=20, deadline=None)
def test_kl_ignores_a_shift_of_the_logits_and_the_order_of_images(
    name: str, seed: int, temperature: float, shift: float
) -> None:
    student, teacher, targets = random_logits(seed)
    loss = KL_LOSSES[name](student, teacher, targets, temperature)
    order = torch.randperm(len(targets), generator=rng(seed))
    assert loss >= 0
    torch.testing.assert_close(loss, KL_LOSSES[name](student + shift, teacher, targets, temperature))
    moved = KL_LOSSES[name](student[order], teacher[order], targets[order], temperature)
    torch.testing.assert_close(loss, moved)


def test_standardised_logits_have_no_shift_and_no_scale() -> None:
    logits = random_scores(0)
    scores = kd.standardized(logits)
    torch.testing.assert_close(kd.standardized(5 * logits - 3), scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores.std(dim=1), torch.ones(6).double())
    ties = torch.zeros(2, 7, requires_grad=True)
    (gradient,) = torch.autograd.grad(kd.standardized(ties).square().sum(), ties)
    assert gradient.isfinite().all()
    assert kd.standardized(logits.bfloat16()).dtype == torch.float32


def normalised(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return kd.kl_per_image(*kd.prepared(student, teacher, 2.0, standardize=False, normalize=True))


def test_a_normalised_divergence_ignores_the_students_scale_and_weighs_by_the_teachers() -> None:
    student, teacher, _ = random_logits(0)
    kl = normalised(student, teacher)
    torch.testing.assert_close(normalised(5 * student, teacher), kl)
    torch.testing.assert_close(normalised(student, 3 * teacher), 9 * kl)
    z_scores = kd.standardized(student), kd.standardized(teacher)
    both = kd.kl_per_image(*kd.prepared(student, teacher, 2.0, standardize=True, normalize=True))
    torch.testing.assert_close(both, kd.kl_per_image(*z_scores, 2.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("level", [0.0, 0.1, 50.0])
def test_equal_logits_have_a_finite_normalised_divergence_and_gradient(level: float) -> None:
    """Of both networks, of the student alone and of the teacher alone; the reference gives NaN for the whole batch."""
    student = torch.tensor([[level] * 3, [level] * 3, [1.0, 2.0, 4.0]], requires_grad=True)
    teacher = torch.tensor([[level] * 3, [1.0, 2.0, 4.0], [level] * 3])
    kl = normalised(student, teacher)
    (gradient,) = torch.autograd.grad(kl.sum(), student)
    assert kl.isfinite().all()
    assert kl[0] == 0
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 10
    for method in (kd.KD, dkd.DKD):
        net, targets = stub_net(num_classes=3), torch.tensor([0, 1, 2])
        module = method(method.Config(normalize=True), stub_setup(net, net))
        both = Outputs("student", logits=student), Outputs("teacher", logits=teacher)
        terms = module.loss(*both, stub_batch(targets, epoch=60))
        (gradient,) = torch.autograd.grad(total(terms), student)
        assert gradient.isfinite().all()


def test_a_switch_that_is_off_leaves_cells_as_they_were() -> None:
    """A later field enters the identity only where it is not at its default."""
    for kind in (kd.KD, dkd.DKD):
        for switch in ("standardize", "normalize"):
            assert switch not in deciding(kind.Config())
            assert deciding(kind.Config(**{switch: True})) == deciding(kind.Config()) | {switch: True}
    pair = {"dataset": "cifar100", "teacher": "resnet56", "student": "resnet20"}
    off, on = (resolve_settings("kd", **pair, chosen={"standardize": value}) for value in (False, True))
    assert off.chosen == {}
    assert off.values() == resolve_settings("kd", **pair).values()
    assert on.chosen == {"standardize": True}
