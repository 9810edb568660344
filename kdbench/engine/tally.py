"""What a run counts: the loss terms and the time of each step, and a line of metrics for each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from kdbench.experiment.predictions import Predictions
from kdbench.utils.device import Span

VALIDATION = "validation/"
"""What begins the names of metrics of held-out images."""
FIRST_STEPS = 20
"""Steps whose losses are kept one by one."""


@final
class Tally:
    """Sums of this epoch's loss terms, seconds, and metrics of earlier epochs. Counting never waits for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        """Of each loss term, over the steps of this epoch that were read."""
        self.first_losses: list[dict[str, float]] | None = []
        """Loss terms of the first steps, pre-training included; None where a saved state did not keep them."""
        self.seconds = {"train": 0.0, "evaluate": 0.0}
        self.history: list[dict[str, Any]] = []
        """Metrics of the protocol's epochs."""
        self.history_before: list[dict[str, Any]] = []
        """Metrics of the epochs of pre-training."""
        self.per_class: dict[str, list[int]] = {}
        """Numbers of ``correct`` and of all ``images`` of each class of the test set, after the last epoch."""
        self.predictions: Predictions | None = None
        """Of the test images after the last epoch, in the process that leads; None where they are switched off."""
        self.terms: tuple[str, ...] = ()
        """Names of the loss terms."""
        self._pending: list[Tensor] = []
        self._spans: list[Span] = []

    def name(self, terms: Iterable[str]) -> None:
        """Name the loss terms of the steps that are counted from now on."""
        self.terms = tuple(terms)

    def count(self, values: Tensor) -> None:
        """Add a step with its loss terms ``(num_terms,)``."""
        self._pending.append(values)

    def time(self, spans: Iterable[Span]) -> None:
        """Add time that was spent on training."""
        self._spans += spans

    def read(self) -> list[dict[str, float]]:
        """Return the loss terms of the steps since the last call; waits for the device."""
        rows = torch.stack(self._pending).tolist() if self._pending else []
        self._pending.clear()
        return [dict(zip(self.terms, row, strict=True)) for row in rows]

    def add(self, terms: Mapping[str, float]) -> None:
        """Add a step's loss terms to the sums of the epoch, and keep those of the first steps."""
        if self.first_losses is not None and len(self.first_losses) < FIRST_STEPS:
            self.first_losses.append(dict(terms))
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def add_time(self) -> None:
        """Add the time since the last call to the seconds of training; the device must have got there."""
        self.seconds["train"] += sum(span.seconds() for span in self._spans)
        self._spans.clear()

    def means(self, num_steps: int) -> dict[str, float]:
        """Return the mean of each loss term over the epoch, and begin the sums of the next one."""
        means = {f"loss/{name}": total / num_steps for name, total in self.sums.items()}
        self.sums = {}
        return means

    def state(self) -> dict[str, Any]:
        """Return what a saved state keeps."""
        return {
            "history": self.history,
            "history_before": self.history_before,
            "sums": self.sums,
            "first_losses": self.first_losses,
            "seconds": self.seconds,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self.history, self.sums, self.seconds = state["history"], state["sums"], state["seconds"]
        self.history_before, self.first_losses = state.get("history_before", []), state.get("first_losses")
