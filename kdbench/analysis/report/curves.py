"""Curves over epochs: what ``metrics.jsonl`` of a cell says, and the band of several seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdbench.analysis.comparison import Comparison
from kdbench.experiment.folder import METRICS

Quantity = Literal["top1", "loss"]
CELLS_READ = 10
"""Cells of one method and pair, the first by seed, whose curves are read."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One cell over its epochs."""

    epochs: tuple[int, ...]
    """In ascending order, from 1."""
    top1: tuple[float, ...]
    """On the test set, in percent."""
    loss: tuple[float, ...]
    """The sum of the training losses; nan where an epoch names none."""
    damaged: tuple[int, ...] = ()
    """Lines of the file, from 1, that cannot be read."""


@dataclass(frozen=True, slots=True)
class Band:
    """The mean of several curves and what lies between the lowest and the highest of them."""

    epochs: tuple[int, ...]
    """Those that all curves have."""
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    num_curves: int


@dataclass(frozen=True, slots=True)
class Curves:
    """The curves of a comparison."""

    by_folder: Mapping[str, Curve]
    """Only of cells that have one."""
    num_read: int
    """Cells that were asked for their curve."""
    num_skipped: int
    """Cells beyond ``CELLS_READ`` of their method and pair."""
    problems: tuple[str, ...]
    """Lines that cannot be read, by file."""

    def of(self, folders: Iterable[str]) -> list[Curve]:
        """The curves of some folders, as far as there are any."""
        return [self.by_folder[folder] for folder in folders if folder in self.by_folder]


def read_curves(comparison: Comparison) -> Curves:
    """Read the curves of a comparison, of at most ``CELLS_READ`` cells of a method and pair."""
    wanted: dict[str, None] = {}
    every: set[str] = set()
    for result in comparison.results.values():
        folders = result.frame["folder"].tolist()
        wanted |= dict.fromkeys(folders[:CELLS_READ])
        every |= set(folders)
    found = {folder: curve for folder in wanted if (curve := read_curve(Path(folder) / METRICS))}
    problems = [_damaged(folder, curve) for folder, curve in found.items() if curve.damaged]
    kept = {folder: curve for folder, curve in found.items() if curve.epochs}
    return Curves(kept, len(wanted), len(every) - len(wanted), tuple(problems))


def read_curve(path: Path) -> Curve | None:
    """The curve in a file of metrics, without lines that are damaged; None where there is no such file."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return None
    points: dict[int, tuple[float, float]] = {}
    damaged = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        point = _point(line)
        if point:
            # A run that went on after a kill may have written an epoch twice: the later one counts.
            points[point[0]] = point[1:]
        else:
            damaged.append(number)
    epochs = tuple(sorted(points))
    return Curve(
        epochs, tuple(points[one][0] for one in epochs), tuple(points[one][1] for one in epochs), tuple(damaged)
    )


def band(curves: Sequence[Curve], quantity: Quantity) -> Band | None:
    """Mean, lowest and highest value in each epoch that all curves have; None where there is no such epoch."""
    points = []
    for curve in curves:
        values = curve.top1 if quantity == "top1" else curve.loss
        own = {epoch: value for epoch, value in zip(curve.epochs, values, strict=True) if math.isfinite(value)}
        points += [own] if own else []
    if not points:
        return None
    epochs = tuple(sorted(set.intersection(*(set(own) for own in points))))
    if not epochs:
        return None
    columns = [[own[epoch] for own in points] for epoch in epochs]
    means = tuple(sum(column) / len(column) for column in columns)
    return Band(epochs, means, tuple(map(min, columns)), tuple(map(max, columns)), len(points))


def _point(line: bytes) -> tuple[int, float, float] | None:
    """Epoch, top-1 and loss of a line; None where it is damaged."""
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


def _damaged(folder: str, curve: Curve) -> str:
    lines = ", ".join(map(str, curve.damaged[:5])) + (", ..." if len(curve.damaged) > 5 else "")
    verb = "line is" if len(curve.damaged) == 1 else "lines are"
    return f"{Path(folder) / METRICS}: {len(curve.damaged)} {verb} damaged and left out ({lines})"
