"""Predict and measure on the test set. Legend: ``N`` images, ``K`` classes."""

from __future__ import annotations

from collections import Counter
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.data.images import EvaluationImages
from kdbench.net import Net
from kdbench.utils.ranks import ALONE, Ranks

NUM_ECE_BINS = 15


_AT_ONCE = 2**14
"""Images whose logits are looked at together: bounds memory; a test set of as many has the same numbers as ever."""


@final
class Evaluation:
    """Accuracy, calibration and fidelity of logits that come in batches; keeps sums, and few logits at once.

    Parameters
    ----------
    targets
        ``(N,)``, on the CPU, of the images in the order in which their logits come.
    teacher_logits
        ``(N, K)``, on the CPU; without them, the fidelity metrics are left out.
    """

    def __init__(self, targets: Tensor, teacher_logits: Tensor | None = None) -> None:
        self._targets, self._teacher_logits = targets, teacher_logits
        self._waiting: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._num_waiting = self._done = 0
        self._hits, self._gaps = Counter[str](), torch.zeros(NUM_ECE_BINS, dtype=torch.float64)
        self._sums = {"nll": 0.0, "teacher_kl": 0.0}

    def add(self, logits: Tensor, first: int) -> None:
        """Add the logits ``(B, K)`` of images from a place on, on any device; seldom waits for it."""
        for place, part in enumerate(logits.split(_AT_ONCE)):
            begin = first + place * _AT_ONCE
            self._waiting.append(part)
            self._rows.append(torch.arange(begin, begin + len(part)))
            self._num_waiting += len(part)
            if self._num_waiting >= _AT_ONCE:
                self.look()

    def results(self, ranks: Ranks = ALONE) -> dict[str, float]:
        """Return the metrics of all images, of which other processes may have added some.

        Returns
        -------
        dict
            ``top1``, ``top5`` (percent; the first min(5, K) classes), ``nll`` (nats), ``ece`` (percent), and with
            a teacher ``agreement`` (percent of equal predictions) and ``teacher_kl`` (KL(teacher || student) at
            temperature 1, nats).
        """
        self.look()
        counted = "top1", "top5", "agreement"
        counts = torch.tensor([self._done, *(self._hits[name] for name in counted)])
        sums = torch.tensor(list(self._sums.values()), dtype=torch.float64)
        gaps = self._gaps.clone()
        ranks.sum([counts, sums, gaps])
        done, *hits = counts.tolist()
        num_images = len(self._targets)
        assert done == num_images, f"{done} of {num_images} test images have logits"
        fractions = {name: number / num_images for name, number in zip(counted, hits, strict=True)}
        nll, teacher_kl = (sums / num_images).tolist()
        results = {name: 100 * fractions[name] for name in ("top1", "top5")}
        results |= {"nll": nll, "ece": 100 * (gaps.abs().sum() / num_images).item()}
        if self._teacher_logits is not None:
            results |= {"agreement": 100 * fractions["agreement"], "teacher_kl": teacher_kl}
        return results

    @torch.no_grad()
    def look(self) -> None:
        """Count what the logits that have come say; waits for the device."""
        if not self._waiting:
            return
        logits = torch.cat(self._waiting).cpu().double()
        rows = torch.cat(self._rows)
        self._waiting, self._rows, self._num_waiting, self._done = [], [], 0, self._done + len(rows)
        targets, log_p = self._targets[rows], F.log_softmax(logits, dim=1)
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
        self._hits["top1"] += int(hits[:, 0].sum())
        self._hits["top5"] += int(hits.any(dim=1).sum())
        self._add("nll", F.nll_loss(log_p, targets, reduction="sum"))
        self._gaps += confidence_gaps(log_p.exp(), targets)
        if self._teacher_logits is not None:
            teacher = self._teacher_logits[rows].double()
            self._hits["agreement"] += int((logits.argmax(dim=1) == teacher.argmax(dim=1)).sum())
            teacher_log_p = F.log_softmax(teacher, dim=1)
            self._add("teacher_kl", F.kl_div(log_p, teacher_log_p, reduction="sum", log_target=True))

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] += value.item()


def evaluate(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None = None) -> dict[str, float]:
    """Return what `Evaluation.results` does for logits ``(N, K)`` that are there."""
    evaluation = Evaluation(targets, teacher_logits)
    evaluation.add(logits, 0)
    return evaluation.results()


def confidence_gaps(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return correct predictions less confidences, summed over the images of each of 15 equal-width bins, ``(15,)``.

    The expected calibration error is the sum of their absolute values over the number of images (Guo et al., ICML
    2017, equation 3).

    Parameters
    ----------
    probabilities, targets
        ``(N, K)`` and ``(N,)``.
    """
    confidence, predicted = probabilities.max(dim=1)
    correct = (predicted == targets).double()
    bins = (confidence * NUM_ECE_BINS).ceil().long().clamp(1, NUM_ECE_BINS) - 1
    gaps = torch.zeros(NUM_ECE_BINS, dtype=torch.float64, device=probabilities.device)
    return gaps.index_add_(0, bins, correct - confidence.double())


@torch.inference_mode()
def predict(net: Net, images: EvaluationImages) -> Tensor:
    """Return float32 logits ``(N, K)`` on the CPU of test images; leave the network in eval mode."""
    net.eval()
    return torch.cat([net.logits(pixels).float() for _, pixels in images.batches()]).cpu()
