"""TeKAP: divergences to perturbed teachers."""

from __future__ import annotations

import pytest
import torch
from random_outputs import random_logits, rng

from kdbench.methods import kd, tekap

pytestmark = pytest.mark.once


def test_without_noise_each_divergence_is_that_of_kd() -> None:
    student, teacher, _ = random_logits(0)
    noise = tekap.draw_noise(teacher, rng(1))
    plain = kd.kl_per_image(student, teacher, 4.0).mean()
    torch.testing.assert_close(tekap.divergences(student, teacher, noise, 0.0, 4.0), plain.expand(4))
    each = tekap.divergences(student, teacher, noise, 0.1, 4.0)
    assert each[0] == plain
    assert not torch.isclose(each[1:], plain).any()


def test_each_perturbed_teacher_has_noise_of_its_own() -> None:
    noise = tekap.draw_noise(torch.zeros(500, 20, dtype=torch.bfloat16), rng(0))
    assert (noise.shape, noise.dtype) == ((3, 500, 20), torch.float32)
    correlations = torch.corrcoef(noise.flatten(1))
    assert (correlations - torch.eye(3)).abs().max() < 0.05
    assert noise.std() == pytest.approx(1, abs=0.02)
