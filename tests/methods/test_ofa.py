"""OFA: the modified cross entropy, and exits."""

from __future__ import annotations

import pytest
import torch
from random_outputs import outputs, random_logits
from stub_nets import stub_batch, stub_net, stub_setup

from kdbench.methods import ofa
from kdbench.models.build import build_backbone
from kdbench.net import Net

pytestmark = pytest.mark.once

SHAPES = ((4, 16, 16), (6, 8, 8), (10, 4, 4))


def test_at_power_1_it_is_the_cross_entropy_with_the_teacher() -> None:
    student, teacher, targets = random_logits(0)
    for temperature in (1.0, 4.0):
        expected = torch.nn.functional.cross_entropy(student / temperature, (teacher / temperature).softmax(dim=1))
        torch.testing.assert_close(ofa.ofa_loss(student, teacher, targets, 1.0, temperature), expected)


def test_a_power_above_1_moves_weight_to_the_label() -> None:
    """A teacher that knows nothing of 4 classes: label (5/4)^2 - 1, others 1/16 each."""
    student = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()
    log_student, targets = student.log_softmax(dim=1), torch.tensor([0, 3, 3])
    of_label = log_student.gather(1, targets[:, None])[:, 0]
    expected = -(9 / 16 * of_label + (log_student.sum(dim=1) - of_label) / 16).mean()
    torch.testing.assert_close(ofa.ofa_loss(student, torch.zeros(3, 4).double(), targets, 2.0, 1.0), expected)


def test_exits_end_at_the_wider_networks_width() -> None:
    method = ofa.OFA(ofa.OFA.Config(), stub_setup(stub_net(shapes=SHAPES), stub_net(width=20)))
    assert [leave[-1].in_features for leave in method.exits] == [20, 20, 20]
    for leave, shape in zip(method.exits, SHAPES, strict=True):
        assert leave[:-3](torch.zeros(2, *shape)).shape == (2, 20, 4, 4)


def test_fewer_exits_are_those_of_the_deepest_stages() -> None:
    nets = stub_net(shapes=SHAPES), stub_net()
    method = ofa.OFA(ofa.OFA.Config(num_exits=1), stub_setup(*nets))
    assert [type(leave[0]) for leave in method.exits] == [torch.nn.Conv2d]
    assert method.exits[0][0].in_channels == 10


def test_without_exits_logits_are_all_that_is_read() -> None:
    config = ofa.OFA.Config(exit_weight=0.0)
    assert ofa.OFA.all_reads(config).student == {"logits"}
    method = ofa.OFA(config, stub_setup(stub_net(), stub_net()))
    terms = method.loss(outputs("student", 4), outputs("teacher", 4), stub_batch(torch.arange(4)))
    assert set(terms) == {"ce", "kd"}
    assert not list(method.parameters())


def test_students_without_maps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shows no feature maps: choose another student, or set exit_weight = 0"):
        ofa.OFA(ofa.OFA.Config(), stub_setup(stub_net(), stub_net()))


def test_students_of_tokens_are_unsupported_with_the_reason() -> None:
    backbone = build_backbone("timm:test_vit", 10, (32, 32))
    student = Net("timm:test_vit", backbone, mean=(0.0,) * 3, std=(1.0,) * 3, image_size=(32, 32))
    with pytest.raises(ValueError, match=r"convolutional students, but timm:test_vit: it has tokens"):
        ofa.OFA(ofa.OFA.Config(), stub_setup(student, stub_net()))


@pytest.mark.parametrize(("size", "min_images"), [(2, 1), (1, 2)])
def test_batch_norms_that_see_one_pixel_need_two_images(size: int, min_images: int) -> None:
    student = stub_net(shapes=[(4, 2 * size, 2 * size), (6, size, size)])
    assert ofa.OFA(ofa.OFA.Config(), stub_setup(student, stub_net())).min_images == min_images
