"""Read curves over epochs from ``metrics.jsonl`` of cells, and compute bands over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdbench.analysis.comparison import Comparison
from kdbench.experiment.folder import METRICS
from kdbench.utils.reading import MAX_BYTES, Missing, Unreadable, read_bytes

Quantity = Literal["top1", "loss"]
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
    points: dict[int, tuple[float, float]] = {}
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
    return Curve(
        epochs,
        tuple(points[epoch][0] for epoch in epochs),
        tuple(points[epoch][1] for epoch in epochs),
        tuple(damaged),
    )


def band(curves: Sequence[Curve], quantity: Quantity) -> Band | None:
    """Compute mean, lowest and highest value in each epoch that all curves have; None without such an epoch."""
    points = []
    for curve in curves:
        values = curve.top1 if quantity == "top1" else curve.loss
        finite = {epoch: value for epoch, value in zip(curve.epochs, values, strict=True) if math.isfinite(value)}
        points += [finite] if finite else []
    if not points:
        return None
    epochs = tuple(sorted(set.intersection(*map(set, points))))
    if not epochs:
        return None
    columns = [[values[epoch] for values in points] for epoch in epochs]
    means = tuple(sum(column) / len(column) for column in columns)
    return Band(epochs, means, tuple(map(min, columns)), tuple(map(max, columns)), len(points))


def _point(line: bytes) -> tuple[int, float, float] | None:
    """Parse epoch, top-1 and loss of a line; None for a damaged line."""
    try:
        values: dict[str, Any] = json.loads(line)
        epoch, top1 = int(values["epoch"]), float(values["top1"])
        losses = [float(value) for name, value in values.items() if name.startswith("loss/")]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    if epoch < 1 or not 0 <= top1 <= 100:
        return None
    total = sum(losses) if losses else math.nan
    return epoch, top1, total if math.isfinite(total) else math.nan


def _damage_message(folder: str, curve: Curve) -> str:
    lines = ", ".join(map(str, curve.damaged[:5])) + (", ..." if len(curve.damaged) > 5 else "")
    verb = "line is" if len(curve.damaged) == 1 else "lines are"
    return f"{Path(folder) / METRICS}: {len(curve.damaged)} {verb} damaged and left out ({lines})"
