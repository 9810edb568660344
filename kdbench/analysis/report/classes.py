"""Accuracies by class and confusion matrices of a comparison, for data of few classes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdbench.analysis.comparison import ComparedPair
from kdbench.analysis.plots.answers import MAX_CLASSES
from kdbench.analysis.plots.curves import CELLS_READ
from kdbench.analysis.plots.pictures import Material
from kdbench.analysis.tables.entries import fixed
from kdbench.analysis.tables.table import MISSING, Entry, Table, words
from kdbench.experiment.folder import RECORD, parse_record
from kdbench.utils.reading import Unreadable

_Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Classes:
    """What is right of each class on one pair."""

    pair: str
    accuracies: Table
    confusions: list[tuple[str, Table]]
    """By the label of the row, of those whose cells have predictions."""


def read_classes(material: Material, problems: list[str]) -> list[Classes] | str:
    """Read the accuracies by class of a comparison's cells, and their predictions, of the first seeds of each method.

    Parameters
    ----------
    material
        Of the comparison; what it reads of few classes, its pictures have too.
    problems
        A line for each file of predictions that cannot be read is added.

    Returns
    -------
    list of Classes or str
        One for each pair with such cells; or why there are none.
    """
    read = [_read(material, pair, problems) for pair in material.comparison.pairs]
    pairs = [classes for classes in read if isinstance(classes, Classes)]
    return pairs or next((reason for reason in read if isinstance(reason, str)), "")


def _read(material: Material, pair: ComparedPair, problems: list[str]) -> Classes | str:
    comparison = material.comparison
    correct: dict[str, _Counts] = {}
    images: dict[str, _Counts] = {}
    num_classes = 0
    for row in comparison.rows:
        result = comparison.result(row, pair)
        for folder in result.frame["folder"].tolist()[:CELLS_READ] if result else []:
            counts = _counts(Path(folder))
            num_classes = num_classes or len(counts["images"])
            if num_classes > MAX_CLASSES:
                return (
                    f"{num_classes} classes, and at most {MAX_CLASSES} are shown: each record holds its counts of "
                    "correct images as per_class."
                )
            if not num_classes or len(counts["images"]) != num_classes:
                continue
            _add(correct, row.label, counts["correct"])
            _add(images, row.label, counts["images"])
    if not correct:
        return "No record holds accuracies by class: earlier versions did not count them."
    answers = material.answers(pair)
    problems.extend(answers.problems)
    matrices: dict[str, _Counts] = {}
    for row, by_seed in answers.by_row.items():
        for each in by_seed.values():
            if row.label in correct and each.confusion is not None and len(each.confusion) == num_classes:
                _add(matrices, row.label, each.confusion)
    title = f"{comparison.title}: {pair.name}"
    confusions = [(label, _confusion(f"{title}, {label}", matrix)) for label, matrix in matrices.items()]
    return Classes(pair.name, _accuracies(title, correct, images), confusions)


def _counts(folder: Path) -> dict[str, list[int]]:
    """Return the counts of each class in a record; none for a record without them."""
    none: dict[str, list[int]] = {"correct": [], "images": []}
    with contextlib.suppress(Unreadable):  # it was deleted or changed meanwhile, which the list of cells names
        return parse_record(folder / RECORD).get("per_class", none)  # type: ignore[no-any-return]
    return none


def _add(sums: dict[str, _Counts], label: str, counts: Sequence[int] | _Counts) -> None:
    sums[label] = sums.get(label, 0) + np.asarray(counts)


def _accuracies(title: str, correct: dict[str, _Counts], images: dict[str, _Counts]) -> Table:
    shares = {label: _percent(correct[label], images[label]) for label in correct}
    num_classes = len(next(iter(correct.values())))
    rows = [words(str(number), *(shares[label][number] for label in shares)) for number in range(num_classes)]
    return Table(
        f"{title}: accuracy by class",
        (("class", *shares),),
        tuple(rows),
        (
            "correct images of each class in % after the last epoch, mean over seeds; classes by their numbers in the "
            "data set",
        ),
    )


def _confusion(title: str, matrix: _Counts) -> Table:
    shares = [_percent(row, np.full(len(row), row.sum())) for row in matrix]
    rows = [(Entry(str(number)), *words(*row)) for number, row in enumerate(shares)]
    return Table(
        f"{title}: confusion",
        (("true class", *map(str, range(len(matrix)))),),
        tuple(rows),
        ("images of the true class (row) that are predicted as the class of the column, in %, mean over seeds",),
    )


def _percent(counts: _Counts, totals: _Counts) -> list[str]:
    return [fixed(100 * int(n) / int(total), 1) if total else MISSING for n, total in zip(counts, totals, strict=True)]
