"""Stored values and properties of AB, FSP, FT and SSKD, the methods with pre-training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity_files import Case, load, names
from stub_nets import stub_batch, stub_net, stub_setup
from test_parity_losses import check_gradients, check_state, load_weights, total, weight_leaves
from torch import Tensor, nn

from kdbench.method import Method
from kdbench.methods import ab
from kdbench.methods.ce import cross_entropy
from kdbench.methods.kd import kl_per_image
from kdbench.net import Net, Outputs

pytestmark = pytest.mark.once

NO_OUTPUTS = Outputs("student")
ANY_BATCH = stub_batch(torch.arange(5))


def levels(case: Case, prefix: str, first: int = 1, *, grad: bool = False) -> dict[str, Tensor]:
    """Stages up to 3, by stored name."""
    return {f"{prefix}.{i}": case.tensor(f"in.{prefix}.{i}", grad=grad) for i in range(first, 4)}


def net_of(maps: list[Tensor], **more: Any) -> Net:
    return stub_net(shapes=[tuple(m.shape[1:]) for m in maps], **more)


def check_main_stage_is_the_task_alone(kind: type[Method], student: Net, teacher: Net) -> None:
    """Cross entropy, and KD's divergence where it has a weight; what else the networks show is not read."""
    logits = [torch.randn(5, 10, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    sides = Outputs("student", logits=logits[0]), Outputs("teacher", logits=logits[1])
    ce, kl = cross_entropy(logits[0], ANY_BATCH.targets).mean(), kl_per_image(*logits, 4.0).mean()
    for weight, expected in ((0.0, {"ce": ce}), (0.5, {"ce": ce, "kd": 0.5 * kl})):
        method = kind(kind.Config(kd_weight=weight), stub_setup(student, teacher))
        assert ("logits" in kind.needs(method.config)) is (weight > 0)
        terms = method.loss(*sides, ANY_BATCH)
        assert list(terms) == list(expected)
        torch.testing.assert_close(terms, expected)


# --- AB ---


@pytest.mark.parametrize("name", names("ab"))
def test_ab(name: str) -> None:
    case = load("ab", name)
    ours, theirs = levels(case, "preact_feats_s", grad=True), levels(case, "preact_feats_t")
    config = ab.AB.Config(ab_weight=case.value("hp.scale"), margin=case.value("hp.margin"))
    assert config == ab.AB.Config()
    student, teacher = (net_of(list(maps.values())) for maps in (ours, theirs))
    method = ab.AB(config, stub_setup(student, teacher)).to(case.dtype)
    load_weights(case, method, {"": ""})
    sides = Outputs("student", preact=tuple(ours.values())), Outputs("teacher", preact=tuple(theirs.values()))
    terms = method.pretrain(student).loss(*sides, ANY_BATCH)
    case.check("out.total", total(terms))
    total(terms).backward()
    check_gradients(case, ours | weight_leaves(method, {"": ""}))
    check_state(case, "buf_after1.", method.state_dict())
    case.check("out.ab_per_stage", method.boundary_losses(*sides))
    for i, (connector, maps, goal) in enumerate(zip(method.connectors, ours.values(), theirs.values(), strict=True)):
        connected = connector(maps)
        case.check(f"out.connected.{i}", connected)
        factor = case.tensor("hp.stage_weights")[i] * case.value("hp.scale")
        loss, stored = ab.boundary_loss(connected, goal, config.margin), case.tensor("out.ab_per_stage")[i]
        torch.testing.assert_close(factor * loss, stored, rtol=1e-9, atol=0)


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
    assert stage.student_reads == {"preact"}
    assert (stage.learning_rate, stage.milestones) == (None, ())
    assert ab.AB.pretraining(method.config) == pytest.approx(30 / 240)
    check_main_stage_is_the_task_alone(ab.AB, student, teacher)


def test_ab_reads_the_stages_of_a_student_without_maps_before_the_relu_and_refuses_such_a_teacher() -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    bare, whole = stub_net(shapes=shapes, preact=False), stub_net(shapes=shapes)
    method = ab.AB(ab.AB.Config(), stub_setup(bare, whole))
    stage = method.pretrain(bare)
    assert stage.student_reads == {"stages"}
    maps = tuple(torch.randn(5, *shape) for shape in shapes)
    assert stage.loss(Outputs("student", stages=maps), Outputs("teacher", preact=maps), ANY_BATCH)["ab"] > 0
    with pytest.raises(ValueError, match="before the last ReLU"):
        ab.AB(ab.AB.Config(), stub_setup(whole, bare))
    with pytest.raises(ValueError, match="equally many stages"):
        ab.AB(ab.AB.Config(), stub_setup(stub_net(shapes=shapes[1:]), whole))
