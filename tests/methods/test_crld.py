"""CRLD: which images and which views are compared."""

from __future__ import annotations

import pytest
import torch
from random_outputs import random_logits
from stub_nets import stub_batch, stub_net, stub_setup

from kdbench.methods import crld
from kdbench.net import Outputs

pytestmark = pytest.mark.once


def test_images_count_one_by_one_where_the_teacher_is_sure() -> None:
    """Of two images, the teacher is sure of the first plain one and of the second strong one."""
    sure, unsure = [9.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    teacher = torch.tensor([sure, unsure, unsure, sure]).double()
    student = random_logits(0, rows=4, classes=3)[0].requires_grad_()
    net = stub_net(num_classes=3)
    config = crld.CRLD.Config(ce_weight=0.0, strong_threshold=0.5)
    terms = crld.CRLD(config, stub_setup(net, net)).loss(
        Outputs("student", logits=student), Outputs("teacher", logits=teacher), stub_batch(torch.tensor([0, 1]))
    )
    within, cross = (torch.autograd.grad(terms[name], student, retain_graph=True)[0] for name in ("within", "cross"))
    assert within.any(dim=1).tolist() == [True, False, True, False]
    assert cross.any(dim=1).tolist() == [False, True, False, True]


def test_equal_views_of_a_student_that_is_the_teacher_leave_the_cross_entropy() -> None:
    logits = random_logits(0, rows=3)[0].repeat(2, 1)
    net = stub_net(num_classes=7)
    method = crld.CRLD(crld.CRLD.Config(plain_threshold=0.0), stub_setup(net, net))
    terms = method.loss(
        Outputs("student", logits=logits), Outputs("teacher", logits=logits), stub_batch(torch.arange(3))
    )
    assert terms["within"] == terms["cross"] == 0
    expected = 2 * torch.nn.functional.cross_entropy(logits[:3], torch.arange(3))
    torch.testing.assert_close(terms["ce"], expected)
    assert crld.CRLD.views(method.config).num_views == 2
