"""GDKD: its relation to KD and DKD, ties, and too many top classes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from random_outputs import random_logits, seeds, temperatures
from stub_nets import stub_net, stub_setup
from torch.nn import functional

from kdbench.methods import dkd, gdkd, kd

pytestmark = pytest.mark.once


@given(seed=seeds, temperature=temperatures)
@settings(max_examples=20, deadline=None)
def test_the_parts_weighted_by_the_teachers_shares_are_kd(seed: int, temperature: float) -> None:
    student, teacher, _ = random_logits(seed, rows=1)
    top, rest = groups = gdkd.split_top(student, teacher, 3)
    share = functional.softmax(teacher / temperature, dim=1).topk(3, dim=1).values.sum()
    inner = [gdkd.inner_loss(*group, temperature, "forward") for group in (top, rest)]
    whole = gdkd.mass_loss(groups, temperature) + share * inner[0] + (1 - share) * inner[1]
    torch.testing.assert_close(whole, kd.kl_per_image(student, teacher, temperature)[0])


def test_one_top_class_that_is_the_label_is_dkd() -> None:
    student, teacher, _ = random_logits(1)
    inputs = (student, teacher, teacher.argmax(dim=1), 4.0)
    top, rest = groups = gdkd.split_top(student, teacher, 1)
    torch.testing.assert_close(gdkd.mass_loss(groups, 4.0), dkd.tckd_loss(*inputs))
    torch.testing.assert_close(gdkd.inner_loss(*rest, 4.0, "forward"), dkd.nckd_loss(*inputs))
    assert gdkd.inner_loss(*top, 4.0, "mean") == 0


def test_of_equal_logits_the_lower_class_is_taken() -> None:
    teacher, student = torch.tensor([[1.0, 2.0, 1.0, 1.0]]), torch.arange(4.0)[None]
    (top, _), (rest, _) = gdkd.split_top(student, teacher, 2)
    assert top.tolist() == [[1.0, 0.0]]
    assert rest.tolist() == [[2.0, 3.0]]


def test_as_many_top_classes_as_there_are_classes_are_refused() -> None:
    net = stub_net(num_classes=5)
    with pytest.raises(ValueError, match="top_k must be below the number of classes, 5, not 5: set a smaller top_k"):
        gdkd.GDKD(gdkd.GDKD.Config(), stub_setup(net, net))
