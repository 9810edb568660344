"""WSLD: the weights of images, and its relation to KD."""

from __future__ import annotations

import math

import pytest
import torch
from random_outputs import random_logits

from kdbench.methods import kd, wsld

pytestmark = pytest.mark.once

SURE, UNSURE = [100.0, -100.0], [0.0, 0.0]


def test_an_image_counts_where_the_student_has_more_to_learn_of_the_label_than_the_teacher() -> None:
    students, teachers = (torch.tensor([SURE, UNSURE, UNSURE, SURE]), torch.tensor([UNSURE, SURE, UNSURE, SURE]))
    weights = wsld.image_weights(students.requires_grad_(), teachers, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(weights, torch.tensor([0.0, 1.0, 1 - math.exp(-1), 0.0]), atol=1e-6, rtol=0)
    assert not weights.requires_grad


def test_without_weights_it_has_the_gradient_of_kd() -> None:
    student, teacher, _ = random_logits(0)
    student.requires_grad_()
    soft, kl = (loss(student, teacher, 3.0).mean() for loss in (wsld.soft_cross_entropy, kd.kl_per_image))
    torch.testing.assert_close(torch.autograd.grad(soft, student), torch.autograd.grad(kl, student))
