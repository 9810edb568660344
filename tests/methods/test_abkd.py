"""ABKD: its limits, its relation to KD, and exponents that are refused."""

from __future__ import annotations

import pytest
import torch
from random_outputs import random_logits

from kdbench.methods import abkd, kd

pytestmark = pytest.mark.once

LIMITS = [(0.8, 0.0, 0.8), (0.0, 0.7, 0.7), (0.6, -0.6, 0.6), (0.0, 0.0, 1.0)]
"""Exponents, and by how much the authors' form at them misses the limit."""


@pytest.mark.parametrize(("alpha", "beta", "factor"), LIMITS)
def test_the_form_where_an_exponent_is_0_is_the_limit_times_a_factor(alpha: float, beta: float, factor: float) -> None:
    student, teacher, _ = random_logits(0)
    at_limit = abkd.alpha_beta_divergence(student, teacher, alpha, beta, 2.0)
    near = abkd.alpha_beta_divergence(student, teacher, alpha + 1e-5, beta + 1e-5, 2.0)
    torch.testing.assert_close(at_limit, factor * near, rtol=1e-3, atol=0)


def test_exponents_1_and_0_are_kd_without_the_squared_temperature() -> None:
    student, teacher, _ = random_logits(0)
    for exponents, pair in (((1.0, 0.0), (student, teacher)), ((0.0, 1.0), (teacher, student))):
        divergence = abkd.alpha_beta_divergence(student, teacher, *exponents, 4.0)
        torch.testing.assert_close(divergence, kd.kl_per_image(*pair, 4.0) / 16)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.5, 0.5), (0.9, -0.2), *(row[:2] for row in LIMITS)])
def test_it_is_0_at_the_teacher_and_finite_at_the_extremes(alpha: float, beta: float) -> None:
    _, teacher, _ = random_logits(0)
    student = teacher.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(abkd.alpha_beta_divergence(student, teacher, alpha, beta, 4.0).sum(), student)
    assert abkd.alpha_beta_divergence(student, teacher, alpha, beta, 4.0).abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12
    far = torch.tensor([[50.0, -50.0, 0.0]], requires_grad=True)
    divergence = abkd.alpha_beta_divergence(far, -far.detach(), alpha, beta, 1.0)
    (gradient,) = torch.autograd.grad(divergence.sum(), far)
    assert divergence.isfinite().all()
    assert divergence > 0
    assert gradient.isfinite().all()


def test_exponents_whose_sum_is_negative_or_which_rounding_would_drown_are_refused() -> None:
    with pytest.raises(ValueError, match=r"beta must be at least -alpha, -0\.8, not -0\.9"):
        abkd.ABKD.Config(beta=-0.9)
    for name, changed in (("alpha", {"alpha": 1e-6}), ("beta", {"beta": 1e-6}), ("alpha \\+ beta", {"beta": -0.7999})):
        with pytest.raises(ValueError, match=rf"^{name} must be 0 or at least 0\.001 away from it, not"):
            abkd.ABKD.Config(**changed)
    assert abkd.ABKD.Config(alpha=0.6, beta=-0.6)
