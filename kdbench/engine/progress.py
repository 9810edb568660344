"""What a run tells those who watch it: how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kdbench.experiment.cell import Cell


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a running cell is."""

    epoch: int
    """Current epoch of this phase, from 1."""
    epochs: int
    """Number of epochs in this phase: of pre-training, or the protocol's."""
    pretraining: bool
    """Whether the phase is pre-training."""
    fraction: float
    """Share of the cell that is done, in [0, 1]."""
    top1: float | None
    """Accuracy on the test set after the last whole epoch, in percent; None before the first one ends."""
    seconds_left: float | None
    """Estimate; None while there is too little to estimate it from."""


Observer = Callable[[Progress], None]
Observers = Callable[[Cell], Observer]


def quietly(_: Cell) -> Observer:
    """Observe nothing."""
    return lambda _: None
