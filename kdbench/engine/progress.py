"""What a run tells those who watch it: its progress, and that it diverged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdbench.errors import UserError
from kdbench.experiment.cell import Cell


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a running cell is. ``top1`` is the test accuracy after the last whole epoch, in percent."""

    epoch: int
    """Of pre-training, or of the protocol's epochs."""
    epochs: int
    pretraining: bool
    fraction: float
    top1: float | None
    seconds_left: float | None


Observer = Callable[[Progress], None]
Observers = Callable[[Cell], Observer]


def quietly(_: Cell) -> Observer:
    """Observe nothing."""
    return lambda _: None


class Diverged(UserError):
    """A loss or a weight became NaN or infinite; ``failure`` is what the cell leaves."""

    reason = "diverged"

    def __init__(self, text: str, failure: dict[str, Any]) -> None:
        super().__init__(text)
        self.failure = failure
