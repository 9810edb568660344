"""How cells are run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from kdbench.utils.ranks import ALONE, Ranks
from kdbench.utils.scheduler import Scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How cells are run. Nothing here changes the results of those that end, beyond rounding."""

    runs: Path
    device: torch.device
    save_every: float = 60.0
    """Least number of seconds between two saves of the state, which take at most a twentieth of the time; with 0,
    the state is saved after every step, however long that takes."""
    scheduler: Scheduler = field(default_factory=Scheduler)
    """Knows about the jobs of other processes that work on cells."""
    ranks: Ranks = ALONE
    """The processes that compute a cell together."""
    compile: bool = False
    """On a GPU, launch each step as CUDA graphs; elsewhere, compile the student."""
    predictions: bool = True
    """Leave the predictions for the test images beside the record."""
    max_epochs: int | None = None
    """Train no more than the first epochs, those of pre-training among them; a cell that has more leaves no record."""
