"""Predict and measure on the test set. Legend: ``N`` images, ``K`` classes."""

from __future__ import annotations

from collections import Counter
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.data.images import EvaluationImages
from kdbench.experiment.predictions import Predictions
from kdbench.net import Net
from kdbench.utils.ranks import ALONE, Ranks

NUM_ECE_BINS = 15


_LARGEST = torch.finfo(torch.float16).max
_AT_ONCE = 2**14
"""Images whose logits are looked at together: bounds memory; a test set of as many has the same numbers as ever."""


@final
class Evaluation:
    """Accuracy, calibration and fidelity of logits that come in batches, of which sums and few at once are kept.

    Parameters
    ----------
    targets
        ``(N,)``, on the CPU, of the images in the order in which their logits come.
    num_classes
        ``K``.
    teacher_logits
        ``(N, K)``, on the CPU; without them, the fidelity metrics are left out.
    keep
        Whether predictions are kept, for :meth:`predictions`.
    """

    def __init__(
        self, targets: Tensor, num_classes: int, teacher_logits: Tensor | None = None, *, keep: bool = False
    ) -> None:
        self._targets, self._teacher_logits = targets, teacher_logits
        self._images, self._num_classes = targets.bincount(minlength=num_classes), num_classes
        self._correct, self._predicted = (torch.zeros(num_classes, dtype=torch.int64) for _ in range(2))
        self._keep = keep
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        """Places, predicted classes and logits in half precision."""
        self._waiting: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._num_waiting = self._done = self._largest_batch = 0
        self._hits, self._teacher_kl = Counter[str](), 0.0
        self._of_images = torch.zeros(len(targets), 3, dtype=torch.float64)
        """Loss, confidence, and whether the prediction is correct, of each image that has come."""

    def add(self, logits: Tensor, first: int) -> None:
        """Add the logits ``(B, K)`` of images from a place on, on any device; seldom waits for it."""
        for place, part in enumerate(logits.split(_AT_ONCE)):
            begin = first + place * _AT_ONCE
            self._waiting.append(part)
            self._rows.append(torch.arange(begin, begin + len(part)))
            self._num_waiting += len(part)
            self._largest_batch = max(self._largest_batch, len(part))
            if self._num_waiting >= _AT_ONCE:
                self.look()

    def results(self, ranks: Ranks = ALONE) -> dict[str, float]:
        """Return the metrics of all images, of which other processes may have added some.

        Of however many processes they have the same bits, but for ``teacher_kl``, whose sums are not of images alone.

        Returns
        -------
        dict
            ``top1``, ``top5`` (percent; the first min(5, K) classes), ``nll`` (nats), ``ece``,
            ``balanced_accuracy``, ``macro_f1`` (percent), and with a teacher ``agreement`` (percent of equal
            predictions) and ``teacher_kl`` (KL(teacher || student) at temperature 1, nats).
        """
        self.look()
        counted = "top1", "top5", "agreement"
        counts = torch.tensor([self._done, *(self._hits[name] for name in counted)])
        teacher_kl = torch.tensor(self._teacher_kl, dtype=torch.float64)
        of_images = self._of_images.clone()
        correct, predicted = self._correct.clone(), self._predicted.clone()
        ranks.sum([counts, teacher_kl, of_images, correct, predicted])
        done, *hits = counts.tolist()
        num_images = len(self._targets)
        assert done == num_images, f"{done} of {num_images} test images have logits"
        loss, gaps = _summed(of_images, *ranks.highest([self._largest_batch]))
        fractions = {name: number / num_images for name, number in zip(counted, hits, strict=True)}
        results = {name: 100 * fractions[name] for name in ("top1", "top5")}
        results |= {"nll": loss / num_images, "ece": 100 * (gaps.abs().sum() / num_images).item()}
        results["balanced_accuracy"] = 100 * balanced_accuracy(correct, self._images)
        results["macro_f1"] = 100 * macro_f1(correct, self._images, predicted)
        if self._teacher_logits is not None:
            results |= {"agreement": 100 * fractions["agreement"], "teacher_kl": teacher_kl.item() / num_images}
        return results

    def per_class(self, ranks: Ranks = ALONE) -> dict[str, list[int]]:
        """Return how many ``images`` each class has, and how many of them are ``correct``, those of others included."""
        self.look()
        correct = self._correct.clone()
        ranks.sum([correct])
        return {"correct": correct.tolist(), "images": self._images.tolist()}

    def predictions(self, ranks: Ranks = ALONE) -> Predictions | None:
        """Return what was kept of all images, in the order of the targets; None in processes that do not lead."""
        self.look()
        empty = torch.empty(0, dtype=torch.int64)
        none = empty, empty, torch.empty(0, self._num_classes, dtype=torch.float16)
        rows, predicted, logits = map(torch.cat, zip(none, *self._kept, strict=True))
        self._kept.clear()  # what is below is another copy, of all processes
        places, values = ranks.gather([rows, predicted]), ranks.gather([logits])
        if not ranks.leads:
            return None
        order = torch.cat([rows for rows, _ in places]).argsort()
        return Predictions(
            labels=self._targets.numpy(),
            predicted=torch.cat([classes for _, classes in places])[order].numpy(),
            logits=torch.cat([logits for (logits,) in values])[order].numpy(),
        )

    @torch.no_grad()
    def look(self) -> None:
        """Count what the logits that have come say; waits for the device."""
        if not self._waiting:
            return
        logits = torch.cat(self._waiting).cpu().double()
        rows = torch.cat(self._rows)
        self._waiting, self._rows, self._num_waiting, self._done = [], [], 0, self._done + len(rows)
        targets, log_p = self._targets[rows], F.log_softmax(logits, dim=1)
        classes = logits.topk(min(5, logits.shape[1]), dim=1).indices
        predicted, hits = classes[:, 0], classes == targets[:, None]
        self._hits["top1"] += int(hits[:, 0].sum())
        self._hits["top5"] += int(hits.any(dim=1).sum())
        self._correct += targets[hits[:, 0]].bincount(minlength=self._num_classes)
        self._predicted += predicted.bincount(minlength=self._num_classes)
        if self._keep:
            self._kept.append((rows, predicted.contiguous(), logits.clamp(-_LARGEST, _LARGEST).half()))
        losses = F.nll_loss(log_p, targets, reduction="none")
        self._of_images[rows] = torch.stack([losses, *_confidences(log_p.exp(), targets)], dim=1)
        if self._teacher_logits is not None:
            teacher = self._teacher_logits[rows].double()
            self._hits["agreement"] += int((logits.argmax(dim=1) == teacher.argmax(dim=1)).sum())
            teacher_log_p = F.log_softmax(teacher, dim=1)
            self._teacher_kl += F.kl_div(log_p, teacher_log_p, reduction="sum", log_target=True).item()


def evaluate(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None = None) -> dict[str, float]:
    """Return what `Evaluation.results` does for logits ``(N, K)`` that are there."""
    evaluation = Evaluation(targets, logits.shape[1], teacher_logits)
    evaluation.add(logits, 0)
    return evaluation.results()


def balanced_accuracy(correct: Tensor, images: Tensor) -> float:
    """Return the mean over classes of the fraction of their images that are predicted correctly.

    Classes without images do not count, as in scikit-learn's ``balanced_accuracy_score``.

    Parameters
    ----------
    correct, images
        Numbers of correct and of all images of each class, ``(K,)``.
    """
    present = images > 0
    return (correct[present].double() / images[present]).mean().item()


def macro_f1(correct: Tensor, images: Tensor, predicted: Tensor) -> float:
    """Return the mean over classes of F1, the harmonic mean of precision and recall.

    A class without images counts as 0 where some image is predicted to be of it, and does not count otherwise, as in
    scikit-learn's ``f1_score`` with ``average="macro"``.

    Parameters
    ----------
    correct, images, predicted
        Numbers of correct images, of all images, and of predictions of each class, ``(K,)``.
    """
    either = images + predicted
    present = either > 0
    return (2 * correct[present].double() / either[present]).mean().item()


def confidence_gaps(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return correct predictions less confidences, summed over the images of each of 15 equal-width bins, ``(15,)``.

    The expected calibration error is the sum of their absolute values over the number of images (Guo et al., ICML
    2017, equation 3).

    Parameters
    ----------
    probabilities, targets
        ``(N, K)`` and ``(N,)``.
    """
    return _gaps(*_confidences(probabilities, targets))


def _confidences(probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the confidence of each prediction, and whether it is correct, 1 or 0, both ``(N,)``."""
    confidence, predicted = probabilities.max(dim=1)
    return confidence, (predicted == targets).double()


def _gaps(confidence: Tensor, correct: Tensor) -> Tensor:
    bins = (confidence * NUM_ECE_BINS).ceil().long().clamp(1, NUM_ECE_BINS) - 1
    gaps = torch.zeros(NUM_ECE_BINS, dtype=torch.float64, device=confidence.device)
    return gaps.index_add_(0, bins, correct - confidence.double())


def _summed(of_images: Tensor, batch: int) -> tuple[float, Tensor]:
    """Return the sum of the losses, and the gaps of confidences, of all images.

    In the order of the images, and first over as many as one process looks at together, in whole batches: results of
    one process and of several have the same bits.
    """
    loss, gaps = 0.0, torch.zeros(NUM_ECE_BINS, dtype=torch.float64)
    for part in of_images.split(-(-_AT_ONCE // batch) * batch):
        losses, confidence, correct = part.unbind(dim=1)
        loss += F.nll_loss(-losses[:, None], torch.zeros(len(part), dtype=torch.int64), reduction="sum").item()
        gaps += _gaps(confidence, correct)
    return loss, gaps


@torch.inference_mode()
def predict(net: Net, images: EvaluationImages) -> Tensor:
    """Return float32 logits ``(N, K)`` on the CPU of test images; leave the network in eval mode."""
    net.eval()
    return torch.cat([net.logits(pixels).float() for _, pixels in images.batches()]).cpu()
