"""Methods that compare maps or relations: where they are zero, what they ignore and refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_maps import features, maps
from random_outputs import (
    built,
    outputs,
    rng,
    seeds,
    total,
)
from stub_nets import stub_batch, stub_net, stub_setup
from torch import Tensor

from kdbench.method import Method
from kdbench.methods import at, cc, kdsvd, nst, pkt, rkd, sp
from kdbench.net import Outputs

pytestmark = pytest.mark.once

OF_MAPS = {"at": at.at_loss, "sp": sp.sp_loss, "nst": nst.nst_loss}
OF_FEATURES = {
    "pkt": pkt.pkt_loss,
    "rkd distance": lambda *sides: rkd.rkd_losses(*sides)[0],
    "rkd angle": lambda *sides: rkd.rkd_losses(*sides)[1],
    "cc kernel": lambda *sides: cc.kernel_loss(*sides, 0.4),
}
LOSSES: dict[str, Any] = OF_MAPS | OF_FEATURES


def inputs(name: str, seed: int) -> Tensor:
    return maps(seed) if name in OF_MAPS else features(seed)


@pytest.mark.parametrize("name", LOSSES)
@given(seed=seeds, scale=st.floats(0.1, 10))
@settings(max_examples=15, deadline=None)
def test_a_scaled_teacher_is_met_by_itself_with_zero_gradient(name: str, seed: int, scale: float) -> None:
    teacher = inputs(name, seed)
    student = (scale * teacher).requires_grad_()
    loss = LOSSES[name](student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    assert abs(loss.item()) < 1e-7 if name == "pkt" else abs(loss.item()) < 1e-12
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("name", LOSSES)
@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_losses_are_positive_and_ignore_the_order_of_images(name: str, seed: int) -> None:
    student, teacher = inputs(name, seed), inputs(name, seed + 1)
    order = torch.randperm(6, generator=rng(seed))
    loss = LOSSES[name](student, teacher)
    assert loss > 0
    torch.testing.assert_close(loss, LOSSES[name](student[order], teacher[order]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("student_value", [None, 0.0, 1.0])
def test_small_batches_and_equal_images_have_finite_gradients(
    name: str, rows: int, student_value: float | None
) -> None:
    """One image; images that are all zeros or all alike; in float32."""
    teacher = inputs(name, 1)[:rows].float()
    student = inputs(name, 0)[:rows].float() if student_value is None else torch.full_like(teacher, student_value)
    student.requires_grad_()
    loss = LOSSES[name](student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    if rows == 1 and name not in ("at", "nst") and student_value != 0:
        assert loss.abs() < 1e-12


@pytest.mark.parametrize("kind", [at.AT, sp.SP, pkt.PKT, rkd.RKD, nst.NST, cc.CC, kdsvd.KDSVD])
def test_a_batch_of_one_image_trains(kind: type[Method]) -> None:
    module = built(kind)
    student = outputs("student", 1)
    terms = module.loss(student, outputs("teacher", 1, seed=1), stub_batch(torch.tensor([3])))
    total(terms).backward()
    assert all(term.isfinite() for term in terms.values())
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("kind", [at.AT, sp.SP, nst.NST])
def test_networks_without_stages_are_refused(kind: type[Method]) -> None:
    with pytest.raises(ValueError, match="stub has 0: choose another network"):
        kind(kind.Config(), stub_setup(stub_net(), stub_net(shapes=[(4, 8, 8)])))


@pytest.mark.parametrize("kind", [at.AT, nst.NST])
def test_the_deepest_stages_are_matched(kind: type[Method]) -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    method = kind(kind.Config(), stub_setup(stub_net(shapes=shapes[1:]), stub_net(shapes=shapes)))
    student, teacher = outputs("student", 3), outputs("teacher", 3, seed=1)
    deepest = Outputs("student", logits=student.logits, stages=student.stages[1:])
    loss = method.loss(deepest, teacher, stub_batch(torch.arange(3)))
    one = {at.AT: at.at_loss, nst.NST: nst.nst_loss}[kind](student.stages[1], teacher.stages[1])
    name = "at" if kind is at.AT else "nst"
    torch.testing.assert_close(loss[name], {"at": 1000, "nst": 50}[name] * one)
