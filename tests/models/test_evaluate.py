"""Metrics against scikit-learn, SciPy and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, recall_score, top_k_accuracy_score
from torch import Tensor

from kdbench.models.evaluate import Evaluation, balanced_accuracy, evaluate, macro_f1


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
        evaluation = Evaluation(targets, 10, teacher)
        for place, batch in enumerate(logits.split(size)):
            evaluation.add(batch, place * size)
        assert evaluation.results() == pytest.approx(expected, rel=1e-12)


class Part(Exception):
    """What one process has to add to the others'."""


def test_shared_images_give_the_same_bits() -> None:
    """Every second batch, of more images than are looked at together, is another process's."""
    generator = torch.Generator().manual_seed(5)
    logits = 3 * torch.randn(40_000, 10, generator=generator)
    targets = torch.randint(10, (40_000,), generator=generator)
    alone, first, second = (Evaluation(targets, 10) for _ in range(3))
    for number, batch in enumerate(logits.split(96)):
        for evaluation in (alone, second if number % 2 else first):
            evaluation.add(batch, number * 96)

    class Sent:
        def sum(self, tensors: list[Tensor]) -> None:
            raise Part([tensor.clone() for tensor in tensors])

    with pytest.raises(Part) as sent:
        second.results(Sent())  # type: ignore[arg-type]

    class Received:
        def sum(self, tensors: list[Tensor]) -> None:
            for tensor, more in zip(tensors, sent.value.args[0], strict=True):
                tensor.add_(more)

        def highest(self, numbers: list[int]) -> list[int]:
            return numbers

    assert first.results(Received()) == alone.results()  # type: ignore[arg-type]


def test_images_without_logits_are_an_error() -> None:
    evaluation = Evaluation(torch.zeros(3, dtype=torch.int64), 4)
    evaluation.add(torch.randn(2, 4), 0)
    with pytest.raises(AssertionError, match="2 of 3 test images"):
        evaluation.results()


def unequal_classes() -> tuple[Tensor, Tensor]:
    """Logits and targets of 300 images; class 5 has none and is predicted, class 6 has none and is not."""
    generator = torch.Generator().manual_seed(7)
    targets = torch.multinomial(torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]), 300, replacement=True, generator=generator)
    logits = torch.randn(300, 7, generator=generator)
    logits[:, :5] += 2 * torch.nn.functional.one_hot(targets, 5)
    logits[:, 6] = -20
    return logits, targets


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_unequal_and_absent_classes_count_as_in_scikit_learn() -> None:
    logits, targets = unequal_classes()
    predicted = logits.argmax(1)
    assert 5 in predicted
    measured = evaluate(logits, targets)
    assert measured["balanced_accuracy"] == pytest.approx(100 * balanced_accuracy_score(targets, predicted))
    assert measured["macro_f1"] == pytest.approx(100 * f1_score(targets, predicted, average="macro"))
    evaluation = Evaluation(targets, 7)
    evaluation.add(logits, 0)
    counts = evaluation.per_class()
    fractions = [correct / images for correct, images in zip(counts["correct"][:5], counts["images"][:5], strict=True)]
    assert fractions == pytest.approx(recall_score(targets, predicted, labels=range(5), average=None).tolist())
    assert counts["images"][5:] == counts["correct"][5:] == [0, 0]


def test_measures_by_hand() -> None:
    """Recalls 1/2 and 3/4 of two classes; the third has no images, and one prediction."""
    correct, images, predicted = torch.tensor([1, 3, 0]), torch.tensor([2, 4, 0]), torch.tensor([2, 3, 1])
    assert balanced_accuracy(correct, images) == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert macro_f1(correct, images, predicted) == pytest.approx((1 / 2 + 6 / 7 + 0) / 3)


def test_predictions_are_kept_in_the_order_of_the_images() -> None:
    logits, targets = unequal_classes()
    logits[0, 0], logits[1, 1] = 1e6, -1e6
    evaluation = Evaluation(targets, 7, keep=True)
    evaluation.add(logits[100:], 100)
    evaluation.look()
    evaluation.add(logits[:100], 0)
    kept = evaluation.predictions()
    assert kept
    assert kept.labels.tolist() == targets.tolist()
    assert kept.predicted.tolist() == logits.argmax(1).tolist()
    assert (kept.logits.dtype, kept.logits[0, 0], kept.logits[1, 1]) == (np.float16, 65504, -65504)
    assert torch.from_numpy(kept.logits[2:]).equal(logits[2:].half())
    assert evaluation.results()["top1"] == 100 * (kept.predicted == kept.labels).mean()
