"""WTTM and TTM: powers of the smallest probabilities, and the weights of images."""

from __future__ import annotations

import math

import pytest
import torch
from random_outputs import random_logits

from kdbench.methods import kd, wttm

pytestmark = pytest.mark.once


def test_probabilities_below_the_smallest_float32_keep_their_power() -> None:
    """exp(-200) is 0 in float32; its tenth power is exp(-20), or exp(-2) to the power 0.01."""
    logits = torch.tensor([[100.0, -100.0]], requires_grad=True)
    assert wttm.power_sum(logits.detach(), 0.01).item() == pytest.approx(1 + math.exp(-2), rel=1e-5)
    loss = wttm.powered_kl(logits, -logits.detach(), 0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    # Of the teacher's two probabilities one is 1 / (1 + exp(-20)), where the student has exp(-200).
    assert loss.item() == pytest.approx(200 / (1 + math.exp(-20)), rel=1e-5)
    assert gradient.isfinite().all()


def test_a_power_is_a_temperature_of_the_teacher_alone() -> None:
    student, teacher, _ = random_logits(0)
    kl = wttm.powered_kl(student, teacher, 0.25)
    torch.testing.assert_close(kl, kd.kl_per_image(student, teacher / 4, 1.0))


def test_images_weigh_from_1_to_a_power_of_the_number_of_classes() -> None:
    sure, unsure = torch.tensor([[200.0] + [0.0] * 9]), torch.zeros(1, 10)
    assert wttm.power_sum(sure, 0.2).item() == pytest.approx(1 + 9 * math.exp(-40))
    assert wttm.power_sum(unsure, 0.2).item() == pytest.approx(10**0.8, rel=1e-5)
