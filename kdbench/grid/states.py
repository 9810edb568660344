"""What has become of cells: read from their folders, their leases and the batch system, never changed here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import CONFIG, FAILURE, METRICS, PRETRAINING, RECORD, STATE
from kdbench.utils.files import read_object
from kdbench.utils.leases import LEASE_PREFIX, Holder, holder_of, living
from kdbench.utils.scheduler import Scheduler


class State(StrEnum):
    """Of a cell."""

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    """A job that will run it waits, or has not come to it yet."""
    FAILED = "failed"
    """It ended with a reason; the same is to be expected of a second try."""
    LOST = "lost"
    """It was begun or queued, and nobody has it any more."""
    PLANNED = "to do"


@dataclass(frozen=True, slots=True)
class Status:
    """A cell's state, and who has it."""

    cell: Cell
    folder: Path
    state: State
    holder: Holder | None = None
    """Of a running cell."""
    job: str = ""
    """The job that a cell is queued in, or was lost with, in words."""


def survey(
    cells: Iterable[Cell],
    runs: Path,
    scheduler: Scheduler,
    queued: Mapping[str, str],
    gone: Mapping[str, str],
) -> list[Status]:
    """Find the states of cells, of very many at once.

    Parameters
    ----------
    queued, gone
        The jobs, in words, that will run a cell or that should have run it and have ended, by the cell's id.
    """
    listed: dict[Path, set[str]] = {}
    found: list[tuple[Cell, Path, set[str]]] = []
    leases: dict[Path, Holder] = {}
    claimed: dict[Path, Path] = {}
    for cell in cells:
        folder = cell.folder(runs)
        if folder.parent not in listed:
            listed[folder.parent] = _names(folder.parent)
        files = _names(folder) if folder.name in listed[folder.parent] else set()
        if RECORD not in files and any(name.startswith(LEASE_PREFIX) for name in files):
            holder = holder_of(folder)
            if holder:
                leases[holder[0]], claimed[folder] = holder[1], holder[0]
        found.append((cell, folder, files))
    alive = living(leases, scheduler)
    statuses = []
    for cell, folder, files in found:
        path = claimed.get(folder)
        if RECORD in files:
            status = Status(cell, folder, State.DONE)
        elif path in alive:
            status = Status(cell, folder, State.RUNNING, holder=leases[path])
        elif cell.id in queued:
            status = Status(cell, folder, State.QUEUED, job=queued[cell.id])
        elif FAILURE in files:
            status = Status(cell, folder, State.FAILED)
        elif cell.id in gone or files & {STATE, CONFIG} or path:
            holder_text = f"its {leases[path]} is dead" if path else ""
            status = Status(cell, folder, State.LOST, job=gone.get(cell.id, holder_text))
        else:
            status = Status(cell, folder, State.PLANNED)
        statuses.append(status)
    return statuses


def explain(status: Status) -> str:
    """What is known about a cell beyond its state: its accuracy, its epoch, or why it failed and where its log is."""
    match status.state:
        case State.DONE:
            return _accuracy(status.folder)
        case State.RUNNING:
            return f"{_progress(status)}{status.holder}"
        case State.QUEUED:
            return f"{_progress(status)}{status.job}"
        case State.FAILED:
            return _failure(status.folder)
        case State.LOST:
            return f"{_progress(status)}{status.job or 'it was stopped'}"
        case State.PLANNED:
            return ""


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _accuracy(folder: Path) -> str:
    record = read_object(folder / RECORD)
    top1, epochs = record.get("top1"), record.get("epochs")
    return f"{top1:.2f} % after {epochs} epochs" if isinstance(top1, float) else f"{folder / RECORD} is damaged"


def _failure(folder: Path) -> str:
    failure = read_object(folder / FAILURE)
    text = str(failure.get("text", "")).splitlines()
    return f"{failure.get('reason', 'error')}: {text[0] if text else 'no more is known'}; log: {folder / FAILURE}"


def _progress(status: Status) -> str:
    """How far an unfinished cell is."""
    try:
        row = _last_line(status.folder / METRICS)
        return f"epoch {row['epoch']}/{status.cell.protocol.epochs}, {row['top1']:.2f} %; "
    except (OSError, ValueError, LookupError, TypeError):
        pass
    try:
        return f"pre-training, epoch {_last_line(status.folder / PRETRAINING)['epoch']}; "
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _last_line(path: Path) -> dict[str, Any]:
    """The last line of a file of metrics."""
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])  # type: ignore[no-any-return]
