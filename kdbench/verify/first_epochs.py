"""First epochs that were trained again, against what a cell's record and metrics hold of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from kdbench.utils.reading import Missing, Unreadable
from kdbench.utils.text import counted
from kdbench.verify.files import read_rows
from kdbench.verify.findings import Verdict
from kdbench.verify.stored import StoredCell

TOLERANCE: Final = 1e-3
"""By which losses of the first steps may differ on other hardware: absolute up to 1, relative above."""
_Row = Mapping[str, Any]


@final
@dataclass(frozen=True, slots=True)
class Trained:
    """What the first epochs of a cell gave, trained again."""

    losses: list[dict[str, float]]
    """Of the first steps."""
    rows: dict[str, list[dict[str, Any]]]
    """Lines of the metrics of its epochs, by the name of their file."""
    weights: str | None
    """Hash of the weights, where all of its epochs were trained."""
    disagreements: list[str]
    """What keeps its numbers from being equal digit for digit."""


def compare(cell: StoredCell, trained: Trained) -> tuple[Verdict, str]:
    """Compare first epochs with a cell's record and metrics.

    Where all conditions agree, losses, metrics and weights have to be equal digit for digit. Elsewhere the losses of
    the first steps have to agree up to :data:`TOLERANCE`, and accuracies are reported.
    """
    steps = cell.record.get("first_losses", [])[: len(trained.losses)]
    try:
        epochs = [epoch for name in trained.rows for epoch in _epochs(cell.folder / name, trained.rows[name])]
    except Unreadable as error:
        return "not checked", f"its metrics cannot be read: a file of them {error}"
    if not steps and not epochs:
        return "not checked", "its folder has no metrics, and its record no losses of the first steps"
    largest = max(map(_difference, steps, trained.losses), default=0.0)
    if steps and len(steps) < len(trained.losses):
        largest = math.inf
    equal = largest == 0.0 and all(then == now for then, now in epochs)
    equal = equal and trained.weights in (None, cell.record["weights"])
    text = "; ".join(_phrases(steps, largest, epochs, trained.weights, cell.record["weights"]))
    if equal:
        return "same", f"{text}; digit for digit"
    if not trained.disagreements:
        return "differs", f"{text}; not digit for digit, and all that decides the digits agrees"
    text = f"{text}; {'; '.join(trained.disagreements)}"
    if not steps:
        return "not checked", f"its record keeps no losses of the first steps; {text}"
    return ("same" if largest <= TOLERANCE else "differs"), text


def rows_in(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of metrics; none where there is no such file."""
    try:
        return read_rows(path)
    except Missing:
        return []


def _epochs(path: Path, rows: Sequence[_Row]) -> Iterator[tuple[_Row, _Row]]:
    """Yield the lines that a cell's file has, and those of training again, of the epochs of both."""
    return zip(rows_in(path), rows, strict=False)


def _difference(then: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Return by how much the terms of a step differ at most; infinity where they are other terms."""
    if then.keys() != now.keys():
        return math.inf
    return max(abs(then[name] - now[name]) / max(1.0, abs(then[name])) for name in then)


def _phrases(
    steps: Sequence[_Row], largest: float, epochs: Sequence[tuple[_Row, _Row]], weights: str | None, recorded: str
) -> Iterator[str]:
    """Say how closely losses, accuracies and weights agree."""
    if steps:
        yield (
            f"losses of the first {counted(len(steps), 'step')} differ by {largest:.1e} at most"
            if largest
            else f"losses of the first {counted(len(steps), 'step')} are equal"
        )
    for then, now in epochs:
        if "top1" in now:
            equal = "equal" if then == now else f"recorded {then.get('top1', math.nan):.2f} %"
            yield f"epoch {now['epoch']}: {now['top1']:.2f} %, {equal}"
        elif then != now:
            yield f"epoch {now['epoch']} of pre-training has other mean losses"
    if weights:
        yield "final weights are equal" if weights == recorded else "final weights are others"
