"""CAT-KD: class activation maps, and a student without a bias."""

from __future__ import annotations

import pytest
import torch
from random_maps import maps
from stub_nets import stub_batch, stub_net, stub_setup

from kdbench.methods import catkd
from kdbench.models import build_backbone
from kdbench.net import Net, Outputs

pytestmark = pytest.mark.once


def classifier() -> torch.Tensor:
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(3)).double()


def test_the_mean_of_a_class_map_is_its_logit() -> None:
    features = maps(0)
    logits = features.mean(dim=(2, 3)) @ classifier().T
    torch.testing.assert_close(catkd.class_maps(features, classifier()).mean(dim=(2, 3)), logits)


def test_maps_that_differ_by_a_factor_are_equal_and_flat_ones_are_no_danger() -> None:
    ours = catkd.class_maps(maps(0), classifier())
    torch.testing.assert_close(catkd.unit_maps(3 * ours), catkd.unit_maps(ours))
    dead = torch.zeros(2, 3, 2, 2, requires_grad=True)
    catkd.unit_maps(dead).square().sum().backward()
    assert dead.grad is not None
    assert not dead.grad.any()


def test_large_and_equal_maps_give_finite_gradients() -> None:
    for scale in (0.0, 50.0):
        ours = (scale * maps(0).float().sign()).requires_grad_()
        weight = classifier().float().requires_grad_()
        net = stub_net(width=5, num_classes=7, shapes=[(5, 4, 4)])
        student = Outputs("student", logits=ours.mean(dim=(2, 3)) @ weight.T, map=ours, weight=weight)
        teacher = Outputs("teacher", map=-ours.detach(), weight=weight.detach())
        terms = catkd.CATKD(catkd.CATKD.Config(), stub_setup(net, net)).loss(
            student, teacher, stub_batch(torch.arange(len(ours)))
        )
        torch.stack(list(terms.values())).sum().backward()
        for leaf in (ours, weight):
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("name", ["wrn_16_1", "ShuffleNetV2"])
def test_the_student_has_no_bias_and_is_otherwise_the_student(name: str) -> None:
    torch.manual_seed(0)
    student = Net(name, build_backbone(name, 7, (32, 32)), mean=(0.5,) * 3, std=(0.2,) * 3, image_size=(32, 32)).eval()
    images = torch.rand(2, 3, 32, 32)
    before = student(images, {"logits"})
    assert before.bias is not None
    setup = stub_setup(student, student)
    after = catkd.CATKD(catkd.CATKD.Config(), setup).wrap(setup)(images, {"logits", "map"})
    assert after.bias is None
    torch.testing.assert_close(after.logits, before.logits - before.bias)
    class_maps = catkd.class_maps(after.map, after.weight)
    torch.testing.assert_close(class_maps.mean(dim=(2, 3)), after.logits)


def test_what_cannot_work_is_refused() -> None:
    seeing, blind = stub_net(width=5, shapes=[(5, 4, 4)]), stub_net(width=6, shapes=[(5, 4, 4)])
    for nets, role in (((seeing, blind), "teacher"), ((blind, seeing), "student")):
        with pytest.raises(ValueError, match=f"does not see the mean of a feature map: choose another {role}"):
            catkd.CATKD(catkd.CATKD.Config(), stub_setup(*nets))
    with pytest.raises(ValueError, match="at most the data set's 10 classes, not 11"):
        catkd.CATKD(catkd.CATKD.Config(num_maps=11), stub_setup(seeing, seeing))
    assert catkd.CATKD(catkd.CATKD.Config(num_maps=10), stub_setup(seeing, seeing))
