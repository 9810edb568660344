"""Saved weights, measured again on the test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from kdbench.data.images import Dataset
from kdbench.engine.described import described
from kdbench.engine.environment import environment
from kdbench.engine.trained import Trained, read_net
from kdbench.engine.transfer import accuracy
from kdbench.errors import UserError
from kdbench.experiment.folder import WEIGHTS
from kdbench.teachers.load import agrees
from kdbench.utils.device import memory_format
from kdbench.verify.conditions import conditions, disagreements, recorded
from kdbench.verify.data import DataSets, NotOpened
from kdbench.verify.findings import Finding, Verdict
from kdbench.verify.stored import StoredCell, StoredTeacher

OnProgress = Callable[[str, float], None]
"""Takes the name of a piece of work, and the part of it that is done, in [0, 1]."""
_METRICS = ("top1", "top5", "nll", "ece", "balanced_accuracy", "macro_f1")
_MATTER = frozenset({"processor", "threads", "torch", "commit", "devices"})
"""Conditions that can change the last digits of an evaluation."""


@final
@dataclass(frozen=True, slots=True)
class Measuring:
    """Measures weights on a device."""

    datasets: DataSets
    device: torch.device
    on_progress: OnProgress

    def cell(self, cell: StoredCell) -> Finding | None:
        """Measure a cell's weights; None where they are not here."""
        if cell.weights is None:
            return None
        now = conditions(environment(self.device), devices=1, compiled=False, outputs=None)
        reasons = list(disagreements(recorded(cell.record), now, _MATTER))
        return self._finding(cell.folder, cell.weights, cell.record, reasons)

    def teacher(self, teacher: StoredTeacher) -> Finding | None:
        """Measure a teacher's weights; None where they are not here, as those of a file of logits."""
        weights = teacher.folder / WEIGHTS
        if teacher.card.ref.is_file or not weights.exists():
            return None
        reasons = ["a teacher's card does not name what it was measured on"]
        return self._finding(teacher.folder, weights, {"top1": teacher.card.accuracy}, reasons)

    def _finding(self, folder: Path, weights: Path, then: Mapping[str, Any], reasons: Sequence[str]) -> Finding:
        try:
            now, dataset = self._measure(folder, weights)
        except NotOpened:
            raise
        except UserError as error:
            return Finding(str(folder), "test set", "not checked", str(error))
        return Finding(str(folder), "test set", *_verdict(then, now, reasons, dataset))

    def _measure(self, folder: Path, weights: Path) -> tuple[dict[str, Any], Dataset]:
        """Return the metrics of weights, and what they were measured on."""
        source = described(folder, lambda _, protocol: self.datasets.open(protocol, None, None)[0].shape.image_size)
        source = replace(source, weights=weights)
        net = Trained(read_net(source), source.protocol.rules.augmentation)
        layout = memory_format(self.device, source.protocol.precision)
        net.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        dataset, _ = self.datasets.open(source.protocol, net.image_size, source.fingerprint)
        return accuracy(net, source, dataset, self.on_progress), dataset


def _verdict(
    then: Mapping[str, Any], now: Mapping[str, Any], reasons: Sequence[str], dataset: Dataset
) -> tuple[Verdict, str]:
    """Compare metrics of the test set.

    Parameters
    ----------
    reasons
        What keeps them from being equal digit for digit.
    """
    different = [name for name in _METRICS if name in then and then[name] != now[name]]
    if not different:
        return "same", f"{now['top1']:.2f} %, digit for digit"
    if not reasons:
        values = ", ".join(f"{name} {now[name]}, recorded {then[name]}" for name in different)
        return "differs", f"measured again: {values}"
    text = f"top1 {now['top1']:.2f} %, recorded {then['top1']:.2f} %; {'; '.join(reasons)}"
    return ("same" if agrees(now["top1"], then["top1"], dataset) else "differs"), text
