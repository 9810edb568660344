"""OFD: its margin, its distance and the teacher's norms."""

from __future__ import annotations

import json

import pytest
import torch
from parity_files import FOLDER
from random_outputs import batch_of, random_outputs
from stub_nets import stub_net, stub_setup

from kdbench.methods import ofd
from kdbench.models import build_backbone

pytestmark = pytest.mark.once


def test_ofds_margin_is_the_mean_of_the_negative_values() -> None:
    weight, bias = torch.tensor([1.0, -0.5, 2.0, 0.1, 0.0]), torch.tensor([0.0, 0.3, -1.0, 5.0, -2.0])
    values = bias.double() + weight.double() * torch.randn(10**6, 5, generator=torch.Generator().manual_seed(0))
    means = torch.where(values < 0, values, torch.nan).nanmean(dim=0)
    margin = ofd.negative_mean(weight, bias)
    torch.testing.assert_close(margin[[0, 1, 2, 4]].double(), means[[0, 1, 2, 4]], rtol=5e-3, atol=0)
    assert margin[3] == pytest.approx(-0.3)  # nothing is negative


def test_ofd_wants_nothing_of_a_student_at_or_below_the_margin() -> None:
    margin = torch.tensor([-1.0])[:, None, None]
    goal = torch.tensor([-3.0, -0.5, 2.0]).expand(1, 1, 1, 3)
    below = torch.tensor([-9.0, -0.5, 2.0], requires_grad=True)
    loss = ofd.partial_distance(below.expand(2, 1, 1, 3), goal, margin)
    (gradient,) = torch.autograd.grad(loss, below)
    assert loss == gradient.abs().max() == 0
    assert ofd.partial_distance(torch.tensor([1.0, -0.5, 1.0]).expand(1, 1, 1, 3), goal, margin) == 2**2 + 1


@pytest.mark.parametrize("name", ["resnet20", "resnet110", "resnet32x4", "wrn_40_2", "vgg13", "vgg8", "ResNet50"])
def test_ofd_finds_the_teachers_norms(name: str) -> None:
    """The same modules as in the reference, and as many as there are stages; other networks have none to offer."""
    backbone = build_backbone(name, 10, (32, 32))
    names = {module: name for name, module in backbone.named_modules()}
    stored = json.loads((FOLDER / "models" / "state_dicts" / f"{name}.json").read_text())["RepDistiller"]
    assert [names[norm] for norm in backbone.preact_norms()] == [name for name, _ in stored["bn_before_relu"]]
    assert not build_backbone("ShuffleNetV1", 10, (32, 32)).preact_norms()


def test_ofd_refuses_a_teacher_without_norms_and_matches_the_deepest_stages() -> None:
    shapes = [(4, 8, 8), (6, 4, 4), (7, 2, 2)]
    bare, deep = stub_net(shapes=shapes[1:], preact=False), stub_net(shapes=shapes)
    with pytest.raises(ValueError, match="shows none"):
        ofd.OFD(ofd.OFD.Config(), stub_setup(deep, bare))
    method = ofd.OFD(ofd.OFD.Config(), stub_setup(bare, deep))
    assert [connector[0].out_channels for connector in method.connectors] == [6, 7]
    teacher = random_outputs("teacher", *shapes)
    terms = method.loss(random_outputs("student", *shapes[1:]), teacher, batch_of(3))
    assert terms["ofd"].isfinite()
