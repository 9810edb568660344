"""SimKD: the network that it makes of the student."""

from __future__ import annotations

import pytest
import torch
from parity.simkd import Shows
from stub_nets import stub_batch, stub_net, stub_setup
from torch import Tensor, nn

from kdbench.methods.simkd import Reusing, SimKD, bottleneck, freeze_behind_last_map, map_loss
from kdbench.models import build_backbone
from kdbench.net import Net

pytestmark = pytest.mark.once


def net(name: str, *, seed: int = 0, num_classes: int = 10) -> Net:
    torch.manual_seed(seed)
    backbone = build_backbone(name, num_classes, (32, 32))
    return Net(name, backbone, mean=(0.5,) * 3, std=(0.2,) * 3, image_size=(32, 32))


def images(rows: int = 4) -> Tensor:
    return torch.rand(rows, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def enlivened(teacher: Net) -> Net:
    """A teacher in eval mode whose batch norms and classifier are not as they were drawn."""
    generator = torch.Generator().manual_seed(2)
    for parameter in teacher.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return teacher.eval()


STUDENTS = ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleNetV2", "timm:test_vit"]
TEACHERS = [
    *("resnet20", "resnet8x4", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleNetV1", "ShuffleNetV2", "ResNet50"),
    *("timm:test_resnet", "timm:test_efficientnet"),
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", TEACHERS)
def test_the_reused_classifier_sees_what_it_saw_in_the_teacher(name: str) -> None:
    """Where the projected map equals the teacher's, the student says what the teacher says."""
    teacher, student = enlivened(net(name)), net("resnet8", seed=1)
    method = SimKD(SimKD.Config(), stub_setup(student, teacher))
    wrapped = method.wrap(stub_setup(student, teacher)).eval()
    said = teacher(images(), {"logits", "map"}, "teacher")
    taught = said.map
    assert map_loss(taught, taught) == 0
    torch.testing.assert_close(wrapped.backbone.head()(taught.mean(dim=(2, 3))), said.logits)
    assert wrapped.backbone.head() is not teacher.backbone.head()


@pytest.mark.parametrize(("name", "reason"), [("timm:test_vit", "tokens"), ("timm:test_convnext", "layers between")])
def test_a_classifier_that_sees_something_else_is_refused(name: str, reason: str) -> None:
    setup = stub_setup(net("resnet8"), enlivened(net(name)))
    with pytest.raises(ValueError, match=f"{reason}.*: choose another teacher"):
        SimKD(SimKD.Config(), setup)


@pytest.mark.parametrize("teacher_name", ["wrn_16_2", "vgg8", "timm:test_resnet"])
@pytest.mark.parametrize(
    "student_name", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleNetV2", "timm:test_vit"]
)
def test_the_network_trains_all_that_it_may_and_nothing_else(student_name: str, teacher_name: str) -> None:
    student, teacher = net(student_name, seed=1).train(), enlivened(net(teacher_name))
    state = {key: value.clone() for key, value in student.backbone.state_dict().items()}
    taught = {key: value.clone() for key, value in teacher.state_dict().items()}
    setup = stub_setup(student, teacher)
    method = SimKD(SimKD.Config(), setup)
    wrapped = method.wrap(setup)
    assert isinstance(wrapped.backbone, Reusing)
    assert wrapped.backbone.body is student.backbone
    assert student.backbone.training
    assert all(torch.equal(value, state[key]) for key, value in student.backbone.state_dict().items())
    assert (wrapped.name, wrapped.width, wrapped.num_classes) == (student.name, teacher.width, teacher.num_classes)
    own = {id(parameter) for parameter in student.backbone.head().parameters()}
    assert not any(parameter.requires_grad for parameter in student.parameters() if id(parameter) in own)

    said = wrapped(images(), {"logits", "stages"})
    with torch.no_grad():
        goal = teacher(images(), SimKD.READS.teacher, "teacher")
    (loss,) = method.loss(said, goal, stub_batch(torch.arange(4))).values()
    loss.backward()
    for name, parameter in wrapped.named_parameters():
        assert (parameter.grad is not None) is parameter.requires_grad, name
    trained = {name for name, parameter in wrapped.backbone.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"body", "projector"}
    assert all(torch.equal(value, taught[key]) for key, value in teacher.state_dict().items())
    torch.testing.assert_close(wrapped.backbone.head().weight, teacher.backbone.head().weight)
    assert said.logits.shape == (4, 10)
    assert wrapped.shapes[-1][0] == teacher.shapes[-1][0]
    assert wrapped.shapes[-1][1:] == tuple(map(min, student.shapes[-1][1:], teacher.shapes[-1][1:]))


def test_layers_behind_the_last_map_are_frozen_and_those_before_it_are_not() -> None:
    body = net("MobileNetV2").backbone
    for training in (False, True):
        freeze_behind_last_map(body.train(training), (32, 32))
        assert body.blocks.training is training
        frozen = {name for name, parameter in body.named_parameters() if not parameter.requires_grad}
        assert {name.split(".")[0] for name in frozen} == {"conv2", "classifier"}


def test_networks_and_settings_that_cannot_work_are_refused() -> None:
    wide = stub_net(width=6, shapes=[(6, 4, 4)])
    for nets in ((stub_net(), wide), (wide, stub_net())):
        with pytest.raises(ValueError, match="choose another network"):
            SimKD(SimKD.Config(), stub_setup(*nets))
    with pytest.raises(ValueError, match="at most the teacher's 6 channels, not 7"):
        SimKD(SimKD.Config(factor=7), stub_setup(wide, wide))
    assert SimKD(SimKD.Config(factor=6), stub_setup(wide, wide))


def test_a_batch_of_one_pixel_is_refused_in_training_alone() -> None:
    network = Reusing(Shows(), bottleneck(4, 6, 2), nn.Linear(6, 3), (1, 1))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network.features(torch.ones(1, 4, 2, 2), maps=True)
    assert network.eval().features(torch.ones(1, 4, 2, 2), maps=True).penultimate.shape == (1, 6)


def test_half_precision_maps_give_a_float32_loss() -> None:
    ours, theirs = torch.ones(2, 4, 3, 3, dtype=torch.bfloat16), torch.zeros(2, 4, 6, 6, dtype=torch.float16)
    loss = map_loss(ours, theirs)
    assert (loss.dtype, loss.item()) == (torch.float32, 1)
