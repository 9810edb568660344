"""SSKD: the rows that it keeps, and its head."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretraining_methods import ANY_BATCH, NO_OUTPUTS
from stub_nets import stub_net, stub_setup
from torch import nn

from kdbench.method import Reads
from kdbench.methods import sskd
from kdbench.methods.kd import kl_per_image
from kdbench.net import Outputs

pytestmark = pytest.mark.once


@given(seed=st.integers(0, 2**31 - 1), ratio=st.sampled_from([0.0, 0.3, 0.75, 0.9, 1.0]))
@settings(max_examples=40, deadline=None)
def test_sskd_keeps_what_is_right_and_the_least_wrong_of_the_rest(seed: int, ratio: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(6, (12, 5), generator=generator).double()
    targets = torch.randint(5, (12,), generator=generator)
    rows = zip(scores.tolist(), targets.tolist(), strict=True)
    ranks = [sum(score > row[goal] for score in row) for row, goal in rows]
    wrong = [rank for rank in ranks if rank > 0]
    order = sorted(range(12), key=ranks.__getitem__)  # stable
    expected = set(order[: 12 - len(wrong) + int(ratio * len(wrong))])
    kept = sskd.kept_rows(scores, targets, ratio)
    assert {row for row, keep in enumerate(kept.tolist()) if keep} == expected
    divergence = sskd.kept_divergence(scores.flip(1), scores, targets, 4.0, ratio)
    literal = [kl_per_image(scores[[row]].flip(1), scores[[row]], 4.0).item() for row in expected]
    assert divergence.item() == pytest.approx(sum(literal) / max(len(literal), 1), rel=1e-12)


def test_sskds_head_learns_to_find_each_rotated_views_own_image() -> None:
    """Cross entropy over cosines with the plain views; only the teacher's head is trained, without the student."""
    torch.manual_seed(0)
    student, teacher = stub_net(width=6), stub_net(width=8)
    method = sskd.SSKD(sskd.SSKD.Config(), stub_setup(student, teacher)).double()
    stage = method.pretrain(student)
    assert stage.train == stage.freeze == (method.teacher_head,)
    assert sskd.SSKD.reads(method.config, "pretraining") == Reads(teacher={"penultimate"})
    assert (stage.learning_rate, stage.milestones) == (0.05, (30 / 60, 45 / 60))
    assert sskd.SSKD.pretraining(method.config) == pytest.approx(60 / 240)
    for config in (method.config, sskd.SSKD.Config(kd_weight=0.0)):
        assert sskd.SSKD.reads(config, "training").teacher == {"logits", "penultimate"}

    features = torch.randn(4 * 5, 8, dtype=torch.float64)
    (loss,) = stage.loss(NO_OUTPUTS, Outputs("teacher", penultimate=features), ANY_BATCH).values()
    projected = method.teacher_head(features)
    losses = []
    for row in range(5, 20):
        cosines = nn.functional.cosine_similarity(projected[row][None], projected[:5])
        losses.append(cosines.logsumexp(0) - cosines[row % 5])
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    loss.backward()
    assert all(parameter.grad is not None for parameter in method.teacher_head.parameters())
    assert all(parameter.grad is None for parameter in method.student_head.parameters())
