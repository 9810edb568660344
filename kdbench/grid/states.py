"""Read the states of cells from their folders, their leases and the batch system, without changing any."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import CONFIG, FAILURE, METRICS, PRETRAINING, RECORD, STATE, parse_record
from kdbench.utils.holder import Holder
from kdbench.utils.leases import LEASE_PREFIX, holder_of, living
from kdbench.utils.reading import Unreadable, parse_json, read_last_line, read_object
from kdbench.utils.scheduler import Scheduler
from kdbench.utils.text import counted


class State(StrEnum):
    """State of a cell."""

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    """A job will run it, and is waiting or has not reached it yet."""
    FAILED = "failed"
    """It ended with an error, which is likely to repeat."""
    LOST = "lost"
    """It was started or queued, and no live process or job has it any more."""
    PLANNED = "to do"


@dataclass(frozen=True, slots=True)
class Status:
    """A cell's state, and who runs it."""

    cell: Cell
    folder: Path
    state: State
    holder: Holder | None = None
    """The process that runs it, where it is running."""
    job: str = ""
    """Describes the job in which it is queued, or with which it was lost."""


def survey(
    cells: Iterable[Cell],
    runs: Path,
    scheduler: Scheduler,
    queued: Mapping[str, str],
    gone: Mapping[str, str],
) -> list[Status]:
    """Find the states of cells, efficiently for very many.

    Parameters
    ----------
    queued, gone
        Descriptions of the jobs that will run a cell, or that have ended without finishing it, by the cell's id.
    """
    listed: dict[Path, set[str]] = {}
    contents: list[tuple[Cell, Path, set[str]]] = []
    leases: dict[Path, Holder] = {}
    lease_of: dict[Path, Path] = {}
    for cell in cells:
        folder = cell.folder(runs)
        if folder.parent not in listed:
            listed[folder.parent] = _names(folder.parent)
        files = _names(folder) if folder.name in listed[folder.parent] else set()
        if RECORD not in files and any(name.startswith(LEASE_PREFIX) for name in files):
            held = holder_of(folder)
            if held:
                lease, holder = held
                leases[lease], lease_of[folder] = holder, lease
        contents.append((cell, folder, files))
    alive = living(leases, scheduler)
    statuses = []
    for cell, folder, files in contents:
        path = lease_of.get(folder)
        if RECORD in files:
            status = Status(cell, folder, State.DONE)
        elif path in alive:
            status = Status(cell, folder, State.RUNNING, holder=leases[path])
        elif cell.id in queued:
            status = Status(cell, folder, State.QUEUED, job=queued[cell.id])
        elif FAILURE in files:
            status = Status(cell, folder, State.FAILED)
        elif cell.id in gone or files & {STATE, CONFIG} or path:
            crashed = f"{leases[path]}, which crashed or was killed" if path else ""
            status = Status(cell, folder, State.LOST, job=gone.get(cell.id, crashed))
        else:
            status = Status(cell, folder, State.PLANNED)
        statuses.append(status)
    return statuses


def explain(status: Status) -> str:
    """Describe a cell beyond its state: its accuracy, its epoch, or why it failed and where its log is."""
    match status.state:
        case State.DONE:
            return _accuracy(status.folder)
        case State.RUNNING:
            return f"{_progress(status)}{status.holder}"
        case State.QUEUED:
            return f"{_progress(status)}{status.job}"
        case State.FAILED:
            return _failure(status)
        case State.LOST:
            return f"{_progress(status)}{status.job or 'stopped before it was finished'}"
        case State.PLANNED:
            return ""


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _accuracy(folder: Path) -> str:
    try:
        record = parse_record(folder / RECORD)
    except Unreadable:
        return f"{folder / RECORD} is damaged"
    return f"{record['top1']:.2f} % after {counted(record['epochs'], 'epoch')}"


def _failure(status: Status) -> str:
    """Describe why a cell failed; what a line about the cell says anyway is left out."""
    failure = read_object(status.folder / FAILURE)
    reason, text = str(failure.get("reason", "error")), str(failure.get("text", "")).partition("\n")[0]
    text = text.removeprefix(f"{status.cell} failed: ") or "no message"
    return f"{text if text.startswith(reason) else f'{reason}: {text}'}; log: {status.folder / FAILURE}"


def _progress(status: Status) -> str:
    """Describe how far an unfinished cell is."""
    try:
        row = _last_line(status.folder / METRICS)
        return f"epoch {row['epoch']}/{status.cell.protocol.epochs}, {row['top1']:.2f} %; "
    except (ValueError, LookupError, TypeError):
        pass
    try:
        return f"pre-training, epoch {_last_line(status.folder / PRETRAINING)['epoch']}; "
    except (ValueError, LookupError, TypeError):
        return ""


def _last_line(path: Path) -> dict[str, Any]:
    """Parse the last line of a file of metrics."""
    return parse_json(read_last_line(path))  # type: ignore[no-any-return]
