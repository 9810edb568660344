"""Read curves over epochs from ``metrics.jsonl`` of cells, and compute bands over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from kdbench.analysis.comparison import Comparison
from kdbench.experiment.folder import METRICS
from kdbench.utils.reading import MAX_BYTES, Missing, Unreadable, read_bytes

TERM = "loss/"
"""What stands before the name of a term of the loss in a line of metrics."""
CELLS_READ = 10
"""Largest number of cells of one method and pair whose curves are read, the first by seed."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy and loss of one cell over its epochs."""

    epochs: tuple[int, ...]
    """Epochs in ascending order, from 1."""
    top1: tuple[float, ...]
    """Accuracies on the test set, in percent."""
    loss: tuple[float, ...]
    """Sums of the training losses; nan for an epoch without losses."""
    damaged: tuple[int, ...] = ()
    """Numbers of lines, from 1, that cannot be read."""
    terms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Each term of the training loss, by its name; nan for an epoch without it."""

    def values(self, quantity: str) -> tuple[float, ...]:
        """Return ``top1``, ``loss``, or ``loss/NAME``, a term, in each epoch; nan where the cell has none."""
        if quantity in ("top1", "loss"):
            return self.top1 if quantity == "top1" else self.loss
        return self.terms.get(quantity.removeprefix(TERM), (math.nan,) * len(self.epochs))


@dataclass(frozen=True, slots=True)
class Band:
    """Mean, lowest and highest value of several curves in each epoch."""

    epochs: tuple[int, ...]
    """Epochs that all curves have."""
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    num_curves: int


@dataclass(frozen=True, slots=True)
class Curves:
    """The curves of a comparison."""

    by_folder: Mapping[str, Curve]
    """Curves by the folder of their cell; cells without a curve are left out."""
    num_read: int
    """Number of cells whose files were looked for."""
    num_skipped: int
    """Number of cells beyond ``CELLS_READ`` of their method and pair."""
    problems: tuple[str, ...]
    """A message for each file with lines that cannot be read."""

    def of(self, folders: Iterable[str]) -> list[Curve]:
        """Return the curves of some folders, without folders that have none."""
        return [self.by_folder[folder] for folder in folders if folder in self.by_folder]


def read_curves(comparison: Comparison) -> Curves:
    """Read the curves of a comparison, of at most ``CELLS_READ`` cells of a method and pair."""
    selected: dict[str, None] = {}
    all_folders: set[str] = set()
    for result in comparison.results.values():
        folders = result.frame["folder"].tolist()
        selected |= dict.fromkeys(folders[:CELLS_READ])
        all_folders |= set(folders)
    curves, problems = dict[str, Curve](), list[str]()
    for folder in selected:
        path = Path(folder) / METRICS
        try:
            curve = read_curve(path)
        except Unreadable as error:
            problems.append(f"{path} {error}")
            continue
        if curve:
            curves[folder] = curve
            problems += [_damage_message(folder, curve)] if curve.damaged else []
    readable = {folder: curve for folder, curve in curves.items() if curve.epochs}
    return Curves(readable, len(selected), len(all_folders) - len(selected), tuple(problems))


def read_curve(path: Path) -> Curve | None:
    """Read the curve in a file of metrics, without its damaged lines; None if the file does not exist.

    Raises
    ------
    Unreadable
        The file cannot be read at all.
    """
    try:
        lines = read_bytes(path, MAX_BYTES).splitlines()
    except Missing:
        return None
    points: dict[int, tuple[float, dict[str, float]]] = {}
    damaged = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        point = _point(line)
        if point:
            # A run that was killed and resumed may have written an epoch twice: the later line counts.
            points[point[0]] = point[1:]
        else:
            damaged.append(number)
    epochs = tuple(sorted(points))
    terms = [points[epoch][1] for epoch in epochs]
    return Curve(
        epochs,
        tuple(points[epoch][0] for epoch in epochs),
        tuple(_total(values) for values in terms),
        tuple(damaged),
        {name: tuple(values.get(name, math.nan) for values in terms) for name in dict.fromkeys(chain(*terms))},
    )


def band(curves: Sequence[Curve], quantity: str) -> Band | None:
    """Compute mean, lowest and highest value in each epoch that all curves have; None without such an epoch."""
    points = []
    for curve in curves:
        values = zip(curve.epochs, curve.values(quantity), strict=True)
        finite = {epoch: value for epoch, value in values if math.isfinite(value)}
        points += [finite] if finite else []
    if not points:
        return None
    epochs = tuple(sorted(set.intersection(*map(set, points))))
    if not epochs:
        return None
    columns = [[each[epoch] for each in points] for epoch in epochs]
    means = tuple(sum(column) / len(column) for column in columns)
    return Band(epochs, means, tuple(map(min, columns)), tuple(map(max, columns)), len(points))


def _point(line: bytes) -> tuple[int, float, dict[str, float]] | None:
    """Parse epoch, top-1 and terms of the loss of a line; None for a damaged line."""
    try:
        values: dict[str, Any] = json.loads(line)
        epoch, top1 = int(values["epoch"]), float(values["top1"])
        terms = {name.removeprefix(TERM): float(value) for name, value in values.items() if name.startswith(TERM)}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return None if epoch < 1 or not 0 <= top1 <= 100 else (epoch, top1, terms)


def _total(terms: Mapping[str, float]) -> float:
    """Return the sum of the terms of an epoch; nan without terms, or if it is not finite."""
    total = sum(terms.values()) if terms else math.nan
    return total if math.isfinite(total) else math.nan


def _damage_message(folder: str, curve: Curve) -> str:
    lines = ", ".join(map(str, curve.damaged[:5])) + (", ..." if len(curve.damaged) > 5 else "")
    verb = "line is" if len(curve.damaged) == 1 else "lines are"
    return f"{Path(folder) / METRICS}: {len(curve.damaged)} {verb} damaged and left out ({lines})"
