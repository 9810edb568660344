"""RKD: rotations, widths and equal images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from random_maps import features
from random_outputs import rng, seeds

from kdbench.methods import rkd

pytestmark = pytest.mark.once


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_rkd_ignores_rotations_and_widths(seed: int) -> None:
    student, teacher = features(seed), features(seed + 1, width=9)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=rng(seed), dtype=torch.float64))[0]
    for plain, turned in zip(
        rkd.rkd_losses(student, teacher), rkd.rkd_losses(student @ rotation + 3, teacher), strict=True
    ):
        torch.testing.assert_close(plain, turned)


def test_rkd_gives_equal_images_no_direction_in_float32() -> None:
    """Two equal images among others far from the origin: no gradient pulls them, whatever rounding does."""
    student = (features(0).float() + 1000).index_copy(0, torch.tensor([1]), features(0)[:1].float() + 1000)
    student.requires_grad_()
    distances = rkd.relative_distances(rkd.differences(student)[1])
    assert distances[0, 1] < 1e-5
    torch.stack(rkd.rkd_losses(student, features(1).float())).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 10
