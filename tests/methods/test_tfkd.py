"""Tf-KD: its relation to KD, and the made-up teacher."""

from __future__ import annotations

import math

import pytest
import torch
from random_outputs import random_logits
from stub_nets import stub_batch, stub_net, stub_setup

from kdbench.methods import kd, tfkd, tfreg
from kdbench.net import Outputs

pytestmark = pytest.mark.once


def test_with_as_large_a_multiplier_as_there_are_classes_it_is_kd() -> None:
    student, teacher, targets = random_logits(0, classes=10)
    net = stub_net()
    both = Outputs("student", logits=student), Outputs("teacher", logits=teacher)
    settings = {"alpha": 0.9, "temperature": 4.0, "multiplier": 10.0}
    ours = tfkd.TfKD(tfkd.TfKD.Config(**settings), stub_setup(net, net)).loss(*both, stub_batch(targets))
    theirs = kd.KD(kd.KD.Config(), stub_setup(net, net)).loss(*both, stub_batch(targets))
    torch.testing.assert_close(ours, theirs)


def test_the_student_with_the_made_up_probabilities_has_no_divergence() -> None:
    """After the second softmax the label has exp(0.97 / T) times the probability of another class, of three."""
    targets = torch.tensor([1, 2])
    student = torch.zeros(2, 3, dtype=torch.double).scatter(1, targets[:, None], (0.98 - 0.01) / 5).requires_grad_()
    divergence = tfreg.virtual_kl(student, targets, 5.0, 0.98)
    (gradient,) = torch.autograd.grad(divergence.sum(), student)
    assert divergence.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12
    uniform = tfreg.virtual_kl(torch.zeros(2, 3).double(), targets, 1.0, 1.0)
    label = math.e / (math.e + 2)
    entropy = -label * math.log(label) - (1 - label) * math.log((1 - label) / 2)
    torch.testing.assert_close(uniform, torch.full((2,), math.log(3) - entropy).double())


def test_the_made_up_teacher_needs_a_second_class() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        tfreg.TfReg(tfreg.TfReg.Config(), stub_setup(stub_net(num_classes=1), None))
