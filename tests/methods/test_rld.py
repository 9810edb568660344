"""RLD: which classes count, and extremes."""

from __future__ import annotations

import pytest
import torch
from random_outputs import random_logits
from stub_nets import stub_net, stub_setup

from kdbench.methods import dkd, kd, rld

pytestmark = pytest.mark.once


def test_only_classes_that_the_teacher_ranks_strictly_below_the_label_count() -> None:
    teacher = torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0]]).double()
    student = torch.tensor([[0.5, -1.0, 2.0, 7.0, 1.0]]).double().requires_grad_()
    loss = rld.masked_loss(student, teacher, torch.tensor([2]), 4.0)
    below = [1, 4]
    torch.testing.assert_close(loss, kd.kl_per_image(student[:, below], teacher[:, below], 4.0))
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert [bool(value) for value in gradient[0]] == [False, True, False, False, True]


@pytest.mark.parametrize("label", [1, 2], ids=["last", "one below"])
def test_a_label_with_one_class_below_it_or_none_adds_nothing(label: int) -> None:
    teacher = torch.tensor([[50.0, -50.0, -49.0]])
    student = torch.tensor([[-50.0, 50.0, 0.0]], requires_grad=True)
    loss = rld.masked_loss(student, teacher, torch.tensor([label]), 1.0)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.item() == 0
    assert gradient.abs().max() == 0


def test_the_confidence_of_a_teacher_that_is_right_is_dkds_target_term() -> None:
    student, teacher, _ = random_logits(0)
    targets = teacher.argmax(dim=1)
    loss = rld.confidence_loss(student, teacher, targets, 2.0).mean()
    torch.testing.assert_close(loss, dkd.tckd_loss(student, teacher, targets, 2.0))


def test_the_confidence_of_a_teacher_that_is_wrong_goes_to_the_label() -> None:
    """The student that has the teacher's logits with the two classes exchanged has no divergence."""
    teacher = torch.tensor([[50.0, -50.0, 0.0, 3.0]])
    student = teacher[:, [1, 0, 2, 3]].requires_grad_()
    loss = rld.confidence_loss(student, teacher, torch.tensor([1]), 1.0)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.item() == 0
    assert gradient.abs().max() == 0
    wrong = rld.confidence_loss(teacher.clone().requires_grad_(), teacher, torch.tensor([1]), 1.0)
    assert wrong.item() == pytest.approx(100, rel=1e-5)


def test_two_classes_are_refused() -> None:
    net = stub_net(num_classes=2)
    with pytest.raises(ValueError, match="at least 3 classes"):
        rld.RLD(rld.RLD.Config(), stub_setup(net, net))
