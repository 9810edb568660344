"""ITRD: correlations of channels, and similarities of images."""

from __future__ import annotations

import math

import pytest
import torch
from random_maps import features

from kdbench.methods import itrd

pytestmark = pytest.mark.once


def test_the_correlation_ends_below_one() -> None:
    ours, images = features(0), 6
    expected = math.log2(5 * (1 / images) ** 3)
    assert itrd.correlation_loss(ours, 3 * ours + 1, 1.5).item() == pytest.approx(expected)
    assert itrd.correlation_loss(ours, features(1), 1.5) > expected


def test_the_students_similarities_may_be_the_teachers() -> None:
    """Rotated and scaled features have the same cosines; orthogonal ones leave nothing of the student's power."""
    turn = torch.linalg.qr(features(2, 5, 5)).Q
    ours = features(0)
    torch.testing.assert_close(itrd.mutual_loss(ours, 2 * ours @ turn), itrd.mutual_loss(ours, ours))
    orthogonal = torch.eye(6, dtype=torch.float64)
    expected = itrd.power(itrd.cosines(ours)) - 1 / 6
    torch.testing.assert_close(itrd.mutual_loss(ours, orthogonal), expected)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_constant_channel_is_left_out(side: str, constant: float) -> None:
    """Value and gradient are finite, and those of the other channels as without it."""
    ours, theirs = features(0).float(), features(1).float()
    (ours if side == "student" else theirs)[:, 2] = constant
    ours.requires_grad_()
    loss = itrd.correlation_loss(ours, theirs, 1.5)
    loss.backward()
    rest = [0, 1, 3, 4]
    expected = (2 ** itrd.correlation_loss(ours[:, rest], theirs[:, rest], 1.5) + 1).log2()
    torch.testing.assert_close(loss, expected)
    assert ours.grad.isfinite().all()


def test_features_that_are_all_dead_have_no_similarities() -> None:
    dead = torch.zeros(4, 5, requires_grad=True)
    loss = itrd.mutual_loss(dead, features(0)[:4].float())
    loss.backward()
    assert loss == 0
    assert dead.grad.isfinite().all()
