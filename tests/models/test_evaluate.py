"""Metrics against scikit-learn, SciPy and values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from scipy.special import log_softmax, rel_entr
from sklearn.metrics import log_loss, top_k_accuracy_score

from kdbench.models.evaluate import Evaluation, evaluate


def test_against_scikit_learn_and_scipy() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, teacher = (3 * torch.randn(200, 8, generator=generator) for _ in range(2))
    targets = torch.randint(8, (200,), generator=generator)
    found = evaluate(logits, targets, teacher)
    log_p, log_t = (log_softmax(x.double().numpy(), axis=1) for x in (logits, teacher))
    p, t = (torch.from_numpy(x).exp().numpy() for x in (log_p, log_t))
    classes = range(8)
    assert found["top1"] == pytest.approx(100 * top_k_accuracy_score(targets, p, k=1, labels=classes))
    assert found["top5"] == pytest.approx(100 * top_k_accuracy_score(targets, p, k=5, labels=classes))
    assert found["nll"] == pytest.approx(log_loss(targets, p, labels=list(classes)))
    assert found["teacher_kl"] == pytest.approx(rel_entr(t, p).sum(axis=1).mean())
    assert found["agreement"] == pytest.approx(100 * (p.argmax(1) == t.argmax(1)).mean())


def test_a_teacher_agrees_with_itself() -> None:
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    found = evaluate(logits, torch.zeros(20, dtype=torch.long), logits)
    assert (found["agreement"], found["teacher_kl"]) == (100, 0)
    assert found["top5"] == 100


def test_ece_by_hand() -> None:
    """Two bins: four images at confidence 0.9, three of them right, and one at 0.55 that is right."""
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.55], dtype=torch.float64)
    probabilities = torch.stack([confidence, 1 - confidence], dim=1)
    targets = torch.tensor([0, 0, 0, 1, 0])
    expected = 4 / 5 * (0.9 - 0.75) + 1 / 5 * (1 - 0.55)
    assert evaluate(probabilities.log(), targets)["ece"] == pytest.approx(100 * expected)
    sure = torch.eye(2, dtype=torch.float64)[[0, 1]]
    assert evaluate(sure.log(), torch.tensor([0, 1]))["ece"] == 0


def test_batches_of_any_size_give_the_metrics_of_all_images() -> None:
    generator = torch.Generator().manual_seed(4)
    logits, teacher = (torch.randn(40_000, 10, generator=generator) for _ in range(2))
    targets = torch.randint(10, (40_000,), generator=generator)
    expected = evaluate(logits.double(), targets, teacher.double())
    for size in (64, 1024, 7001):
        evaluation = Evaluation(targets, teacher)
        for place, batch in enumerate(logits.split(size)):
            evaluation.add(batch, place * size)
        assert evaluation.results() == pytest.approx(expected, rel=1e-12)


def test_images_without_logits_are_an_error() -> None:
    evaluation = Evaluation(torch.zeros(3, dtype=torch.int64))
    evaluation.add(torch.randn(2, 4), 0)
    with pytest.raises(AssertionError, match="2 of 3 test images"):
        evaluation.results()
