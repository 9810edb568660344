"""AB: its margin, what it trains, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from pretraining_methods import ANY_BATCH, check_main_stage_is_the_task_alone
from stub_nets import stub_net, stub_setup
from torch import nn

from kdbench.method import Reads
from kdbench.methods import ab
from kdbench.net import Outputs

pytestmark = pytest.mark.once


def test_ab_wants_nothing_of_a_student_beyond_the_margin_on_the_teachers_side() -> None:
    goal = torch.tensor([2.0, 0.1, -3.0, 0.0]).expand(1, 1, 1, 4)
    right = torch.tensor([1.0, 5.0, -1.0, -2.0], requires_grad=True)
    loss = ab.boundary_loss(right.expand(2, 1, 1, 4), goal.expand(2, 1, 1, 4), 1.0)
    (gradient,) = torch.autograd.grad(loss, right)
    assert loss == gradient.abs().max() == 0
    wrong = torch.tensor([0.5, -1.0, 0.0, 1.0]).expand(1, 1, 1, 4)
    assert ab.boundary_loss(wrong, goal, 1.0) == 0.5**2 + 2**2 + 1**2 + 2**2


def test_ab_trains_all_below_the_classifier_and_drops_its_connectors() -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    student, teacher = stub_net(shapes=shapes), stub_net(shapes=[(4, 8, 8), (8, 4, 4)])
    method = ab.AB(ab.AB.Config(), stub_setup(student, teacher))
    assert isinstance(method.connectors[0], nn.Identity)
    stage = method.pretrain(student)
    assert stage.train == (method.connectors, student)
    assert stage.freeze == (method.connectors,)
    assert ab.AB.reads(method.config, "pretraining") == Reads({"preact", "stages"}, {"preact"})
    assert (stage.learning_rate, stage.milestones) == (None, ())
    assert ab.AB.pretraining(method.config) == pytest.approx(30 / 240)
    check_main_stage_is_the_task_alone(ab.AB, student, teacher)


def test_ab_reads_the_stages_of_a_student_without_maps_before_the_relu_and_refuses_such_a_teacher() -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    bare, whole = stub_net(shapes=shapes, preact=False), stub_net(shapes=shapes)
    method = ab.AB(ab.AB.Config(), stub_setup(bare, whole))
    stage = method.pretrain(bare)
    assert not method.student_preact
    maps = tuple(torch.randn(5, *shape) for shape in shapes)
    assert stage.loss(Outputs("student", stages=maps), Outputs("teacher", preact=maps), ANY_BATCH)["ab"] > 0
    with pytest.raises(ValueError, match="before the last ReLU"):
        ab.AB(ab.AB.Config(), stub_setup(whole, bare))
    with pytest.raises(ValueError, match="equally many stages"):
        ab.AB(ab.AB.Config(), stub_setup(stub_net(shapes=shapes[1:]), whole))
