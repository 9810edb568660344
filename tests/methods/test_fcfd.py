"""FCFD: bridges, the draw of paths, and what passes through the teacher."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from random_maps import maps
from random_outputs import rng
from stub_nets import stub_batch, stub_net, stub_setup

from kdbench.methods import fcfd
from kdbench.models import build_backbone
from kdbench.net import Net

pytestmark = pytest.mark.once


def net(name: str) -> Net:
    torch.manual_seed(0)
    return Net(name, build_backbone(name, 7, (32, 32)), mean=(0.5,) * 3, std=(0.2,) * 3, image_size=(32, 32))


def test_two_paths_count_each_as_often_as_the_others() -> None:
    draws = torch.stack([fcfd.drawn_paths(4, rng(seed)) for seed in range(400)])
    assert (draws.sum(dim=1) == 2).all()
    assert draws.mean(dim=0).tolist() == pytest.approx([0.5] * 4, abs=0.08)
    assert fcfd.drawn_paths(2, rng(0)).tolist() == [1, 1]


@pytest.mark.parametrize(("size", "goal"), [(8, 8), (8, 4), (4, 8)])
def test_a_bridge_meets_the_other_networks_maps(size: int, goal: int) -> None:
    made = fcfd.bridge((5, size, size), (3, goal, goal), activated=True)
    assert made(maps(0, size=size).float()).shape == (6, 3, goal, goal)
    assert [name for name, _ in made.named_parameters()][1] == ("0.bias" if size != goal else "1.weight")


def test_equal_maps_have_no_error_and_the_last_ones_count_their_means() -> None:
    ours = maps(0)
    assert fcfd.map_error(ours, ours, last=True) == 0
    plain, last = (fcfd.map_error(ours.abs() + 1, ours.abs(), last=last) for last in (False, True))
    assert (plain.item(), last.item()) == pytest.approx((1, 2))


def test_gradients_pass_through_the_teacher_and_leave_it_as_it_is() -> None:
    student, teacher = net("resnet8").train(), net("resnet14").eval().requires_grad_(requires_grad=False)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    images = torch.rand(4, 3, 32, 32, generator=rng(1))
    method = fcfd.FCFD(fcfd.FCFD.Config(), stub_setup(student, teacher))
    assert not [name for name in method.state_dict() if not name.startswith("to_")]
    ours, theirs = student(images, method.READS.student), teacher(images, method.READS.teacher, "teacher")
    after_forward = {key: value.clone() for key, value in student.state_dict().items()}
    terms = method.loss(ours, theirs, stub_batch(torch.arange(4), epoch=20))
    assert all(torch.equal(value, after_forward[key]) for key, value in student.state_dict().items())
    shallow = student.backbone.get_submodule("layer1").get_parameter("0.conv1.weight")
    (gradient,) = torch.autograd.grad(terms["mixture"], shallow)
    assert gradient.any()
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert all(module.track_running_stats for module in student.modules() if isinstance(module, torch.nn.BatchNorm2d))


def test_networks_that_do_not_fit_are_refused() -> None:
    stub = stub_net(shapes=[(4, 8, 8), (4, 4, 4)])
    with (
        mock.patch.object(stub.backbone, "segments", return_value=None),
        pytest.raises(ValueError, match="runs networks from a stage on, which stub does not offer"),
    ):
        fcfd.FCFD(fcfd.FCFD.Config(), stub_setup(stub, stub))
    with pytest.raises(ValueError, match="equally many stages, but vgg8 has 4 and resnet8 has 3"):
        fcfd.FCFD(fcfd.FCFD.Config(), stub_setup(net("resnet8"), net("vgg8")))
    with pytest.raises(ValueError, match="half or twice the size, not 8 x 8 to 2 x 2"):
        fcfd.bridge((4, 8, 8), (4, 2, 2), activated=False)
