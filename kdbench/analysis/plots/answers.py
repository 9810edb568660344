"""Read predictions for the test set, and keep what plots need: classes, calibration, correlations of logits.

Legend: ``N`` test images, ``K`` classes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kdbench.analysis.comparison import ComparedPair, Comparison, Row
from kdbench.analysis.plots.curves import CELLS_READ
from kdbench.errors import UserError
from kdbench.experiment.folder import PREDICTIONS
from kdbench.experiment.pairs import JOIN, LOGITS
from kdbench.experiment.predictions import Predictions, read_predictions

NUM_BINS = 15
"""Bins of confidence, of equal width: those of the expected calibration error in records."""
MAX_CLASSES: Final = 20
"""Largest number of classes of which a confusion matrix is kept: one of more cannot be read."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a network predicts on the test set, in short."""

    test_set: str
    """Hash of the labels in the order of the images: equal for networks that were tested on the same images."""
    class_accuracy: NDArray[np.float64]
    """``(K,)``, percent; nan for a class without test images."""
    counts: NDArray[np.float64]
    """``(15,)``, images in each bin of confidence."""
    confidences: NDArray[np.float64]
    """``(15,)``, sums of confidences, from 0 to 1, in each bin."""
    correct: NDArray[np.float64]
    """``(15,)``, correct predictions in each bin."""
    confusion: NDArray[np.int64] | None
    """``(K, K)``, images by true and predicted class; None for more than :data:`MAX_CLASSES` classes."""


@dataclass(frozen=True, slots=True)
class PairAnswers:
    """What the networks of a pair predict."""

    teacher: Answers | None
    by_row: Mapping[Row, Mapping[int, Answers]]
    """Of each method, by seed; methods without predictions are left out."""
    differences: Mapping[Row, NDArray[np.float32]]
    """Of each method ``(K, K)``: absolute differences to the teacher of :func:`correlation`, mean over seeds."""
    missing: tuple[Path, ...]
    """Files that finished cells lack."""
    problems: tuple[str, ...]
    """A message for each file that cannot be used."""
    no_teacher: str
    """Why there are no predictions of the teacher; empty if there are."""

    @property
    def of_few_classes(self) -> bool:
        """Whether there are confusion matrices of all networks, if any."""
        return all(each.confusion is not None for by_seed in self.by_row.values() for each in by_seed.values())


def read_answers(
    comparison: Comparison,
    pair: ComparedPair,
    teacher_folder: Path | None,
    on_file: Callable[[str], None] = lambda _: None,
) -> PairAnswers:
    """Read the predictions of at most ``CELLS_READ`` cells of each method on a pair, and of its teacher.

    Parameters
    ----------
    teacher_folder
        Folder of the cell that trained the teacher, or of an imported one; None if it is not known.
    """
    missing, problems = list[Path](), list[str]()
    teacher, no_teacher = _teacher(pair, teacher_folder)
    teacher_correlation = correlation(teacher) if teacher else None
    by_row: dict[Row, dict[int, Answers]] = {}
    sums, num_summed = dict[Row, NDArray[np.float32]](), Counter[Row]()
    for row in comparison.rows:
        result = comparison.result(row, pair)
        cells = {} if result is None else dict(zip(result.frame.index.tolist(), result.frame["folder"], strict=True))
        for seed, folder in list(cells.items())[:CELLS_READ]:
            on_file(folder)
            try:
                predictions = read_predictions(Path(folder))
            except UserError as error:
                problems.append(str(error))
                continue
            if predictions is None:
                missing.append(Path(folder) / PREDICTIONS)
                continue
            by_row.setdefault(row, {})[seed] = answers_of(predictions)
            if teacher and teacher_correlation is not None and np.array_equal(predictions.labels, teacher.labels):
                difference = np.abs(correlation(predictions) - teacher_correlation)
                sums[row] = sums[row] + difference if row in sums else difference
                num_summed[row] += 1
    return PairAnswers(
        answers_of(teacher) if teacher else None,
        by_row,
        {row: total / np.float32(num_summed[row]) for row, total in sums.items()},
        tuple(missing),
        tuple(problems),
        no_teacher,
    )


def answers_of(predictions: Predictions) -> Answers:
    """Compute accuracy by class, and the sums of the expected calibration error by bin.

    The k-th of 15 bins holds the images whose largest probability is in ((k - 1) / 15, k / 15] (Guo et al., ICML 2017).
    """
    labels, num_classes = predictions.labels, predictions.num_classes
    correct = predictions.predicted == labels
    logits = predictions.logits.astype(np.float32)
    confidence = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, dtype=np.float64)
    by_class = partial(np.bincount, labels, minlength=num_classes)
    with np.errstate(invalid="ignore"):
        class_accuracy = 100 * by_class(weights=correct) / by_class()
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64), 1, NUM_BINS) - 1
    by_bin = partial(np.bincount, bins, minlength=NUM_BINS)
    return Answers(
        hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
        class_accuracy,
        by_bin().astype(np.float64),
        by_bin(weights=confidence).astype(np.float64),
        by_bin(weights=correct).astype(np.float64),
        predictions.confusion() if num_classes <= MAX_CLASSES else None,
    )


def correlation(predictions: Predictions) -> NDArray[np.float32]:
    """Compute the correlation over images of the logits of each two classes, ``(K, K)``; nan for a constant logit."""
    logits = predictions.logits.astype(np.float32)
    logits -= logits.mean(axis=0, dtype=np.float64).astype(np.float32)
    scales = np.sqrt((logits**2).sum(axis=0, dtype=np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        logits /= scales.astype(np.float32)
    matrix: NDArray[np.float32] = logits.T @ logits
    return matrix


def _teacher(pair: ComparedPair, folder: Path | None) -> tuple[Predictions | None, str]:
    """Return what the teacher predicts, or why that is not known."""
    if not pair.teacher:
        return None, "no method has a finished cell with a teacher"
    if JOIN in pair.teacher:
        return None, f"the teacher {pair.teacher_label} is an ensemble, of which no predictions are kept"
    if folder is None:
        return None, f"neither the run that trained the teacher {pair.teacher_label} nor its folder is in these runs"
    try:
        predictions = read_predictions(folder)
    except UserError as error:
        return None, str(error)
    return predictions, "" if predictions else _no_file(pair, folder)


def _no_file(pair: ComparedPair, folder: Path) -> str:
    """Return why the folder of a teacher has no predictions."""
    if pair.teacher.startswith(LOGITS):
        return (
            f"the file of the teacher {pair.teacher_label} had no test_logits: add them, and type 'kdbench teacher "
            "import-logits' again"
        )
    return f"{folder / PREDICTIONS} is missing: 'kdbench teacher train' and 'kdbench teacher import' make it"
