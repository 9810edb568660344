"""PCKD: its contrast, its preview and its switches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_outputs import built, outputs, rng
from stub_nets import stub_batch, stub_net, stub_setup

from kdbench.method import PLAIN
from kdbench.methods import (
    pckd,
)
from kdbench.net import Outputs

pytestmark = pytest.mark.once


def test_category_contrast_equals_a_literal_loop() -> None:
    generator = rng(0)
    labels = torch.tensor([0, 1, 0, 2, 1, 2, 0, 1])
    anchors = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    losses = pckd.category_contrast(anchors, labels, 4.0, 0.07)
    for i in range(8):
        similarities = [math.fsum((anchors[i] * anchors[j]).tolist()) / 4.0 for j in range(8)]
        top = max(similarities)
        denominator = sum(math.exp(similarities[j] - top) for j in range(8) if j != i) + 1e-7
        positives = [j for j in range(8) if j != i and labels[j] == labels[i]]
        mean = sum(similarities[j] - top - math.log(denominator) for j in positives) / len(positives)
        assert losses[i].item() == pytest.approx(-mean * 4.0 / 0.07, rel=1e-12)


@pytest.mark.parametrize("epochs", [240, 30])
def test_preview_schedule_has_the_published_values_at_the_same_progress(epochs: int) -> None:
    published = {1: 1.005, 25: 1.133, 50: 1.283, 80: 1.490, 100: 1.647, 120: 1.819, 139: 2.000}
    published |= {150: 2.113, 180: 2.454, 210: 2.850, 240: 3.310}
    for epoch, threshold in published.items():
        batch = stub_batch(torch.tensor([0]), epoch=epoch, epochs=240)
        assert pckd.preview_threshold(1.005, batch.progress) == pytest.approx(threshold, abs=5e-4)
        if epochs == 30 and epoch % 8 == 0:
            batch = stub_batch(torch.tensor([0]), epoch=epoch // 8, epochs=30)
            assert pckd.preview_threshold(1.005, batch.progress) == pytest.approx(threshold, abs=5e-4)


@given(losses=st.lists(st.floats(0, 20), min_size=1, max_size=12), epoch=st.integers(1, 240))
@settings(max_examples=60, deadline=None)
def test_preview_weights_are_at_most_one_and_favour_easy_images(losses: list[float], epoch: int) -> None:
    values = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    weights = pckd.preview_weights(values, pckd.preview_threshold(1.005, epoch / 240))
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (weights[values.argsort()].diff() <= 1e-12).all()
    assert weights[values.argmin()] == 1
    (gradient,) = torch.autograd.grad(weights.sum(), values)
    assert gradient.isfinite().all()


def test_pckd_switches() -> None:
    student, teacher = outputs("student", 8), outputs("teacher", 8, seed=1)
    batch = stub_batch(torch.tensor([0, 1]), epoch=20)
    terms = built(pckd.PCKD).loss(student, teacher, batch)
    assert list(terms) == ["ce", "kd", "contrast", "centre", "feature"]
    mean = built(pckd.PCKD, halves="mean").loss(student, teacher, batch)
    torch.testing.assert_close(2 * mean["contrast"], terms["contrast"])
    bare = built(pckd.PCKD, alpha=0.0, beta=0.0, delta=0.0, ff=0.0)
    assert list(bare.loss(student, teacher, batch)) == ["ce"]
    assert not list(bare.parameters())

    one = built(pckd.PCKD, views=1)
    assert one.views(one.config) is PLAIN
    assert pckd.PCKD.views(pckd.PCKD.Config()).quarter_turns == (0, 1, 2, 3)
    plain = one.loss(outputs("student", 2), outputs("teacher", 2, seed=1), batch)
    assert all(term.isfinite() for term in plain.values())
    assert (one.min_images, bare.min_images) == (2, 1)

    narrow, wide = stub_net(), stub_net(width=12)
    assert "centre" not in pckd.PCKD(pckd.PCKD.Config(), stub_setup(narrow, wide)).loss(
        student, outputs_of_width(teacher, 12), batch
    )
    with pytest.raises(ValueError, match="cannot be aligned"):
        pckd.PCKD(pckd.PCKD.Config(on_mismatch="error"), stub_setup(narrow, wide))


def outputs_of_width(side: Outputs, width: int) -> Outputs:
    rows = side.logits.shape[0]
    return Outputs(
        "teacher",
        logits=side.logits,
        penultimate=torch.ones(rows, width),
        weight=torch.ones(10, width),
        bias=side.bias,
    )


@pytest.mark.parametrize("detach", [False, True])
def test_pckd_preview_is_differentiable_in_the_kd_term_alone(detach: bool) -> None:
    """With equal teacher and student the KL and its gradient vanish; otherwise detaching changes the gradient."""
    gradients = []
    for detach_preview in (detach, True):
        student, teacher = outputs("student", 16, seed=3), outputs("teacher", 16, seed=4)
        module = built(pckd.PCKD, detach_preview=detach_preview)
        module.loss(student, teacher, stub_batch(torch.arange(4)))["kd"].backward()
        assert student.logits.grad is not None
        assert student.logits.grad[4:].abs().max() == 0  # the rotated views see neither CE nor KD
        gradients.append(student.logits.grad)
    assert torch.equal(gradients[0], gradients[1]) is detach
