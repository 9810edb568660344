"""Read the states of cells from their folders, their leases and the batch system, without changing any."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import CONFIG, FAILURE, METRICS, PRETRAINING, RECORD, STATE, parse_record, record_flaw
from kdbench.utils.checkpoint import state_names
from kdbench.utils.files import is_temporary
from kdbench.utils.holder import Holder
from kdbench.utils.leases import LEASE_PREFIX, holder_of, living
from kdbench.utils.reading import Unreadable, parse_json, read_last_line, read_object
from kdbench.utils.scheduler import Scheduler
from kdbench.utils.text import counted

_MAX_PARSED = 5_000
"""Records of a survey that are parsed, in about a second; of more, only the sizes are looked at."""
_STATES = frozenset(state_names(STATE))


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
    """Describes the job in which it is queued, with which it was lost, or whose log it writes while it runs."""
    damage: str = ""
    """Why its record cannot be used, where it failed for that."""
    untidy: bool = False
    """Whether it has ended, and a process that was killed left something in its folder."""


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
    listed: dict[str, set[str]] = {}
    contents: list[tuple[Cell, Path, set[str]]] = []
    leases: dict[Path, Holder] = {}
    lease_of: dict[Path, Path] = {}
    recorded: list[tuple[Cell, Path, int]] = []
    for cell in cells:
        folder = cell.folder(runs)
        parent, name = os.path.split(folder)
        if parent not in listed:
            listed[parent] = _names(parent)[0]
        files, record_size = _names(folder) if name in listed[parent] else (set(), 0)
        if RECORD in files:
            recorded.append((cell, folder, record_size))
        elif any(name.startswith(LEASE_PREFIX) for name in files):
            held = holder_of(folder)
            if held:
                lease, holder = held
                leases[lease], lease_of[folder] = holder, lease
        contents.append((cell, folder, files))
    alive = living(leases, scheduler)
    damages = {
        folder: damage
        for cell, folder, record_size in recorded
        if (damage := _damage(cell, folder, record_size, parse=len(recorded) <= _MAX_PARSED))
    }
    statuses = []
    for cell, folder, files in contents:
        path = lease_of.get(folder)
        if RECORD in files:
            state, damage = (State.FAILED, damages[folder]) if folder in damages else (State.DONE, "")
            status = Status(cell, folder, state, damage=damage, untidy=_is_untidy(files))
        elif path in alive:
            status = Status(cell, folder, State.RUNNING, holder=leases[path])
        elif cell.id in queued:
            status = Status(cell, folder, State.QUEUED, job=queued[cell.id])
        elif FAILURE in files:
            status = Status(cell, folder, State.FAILED, untidy=path is not None)
        elif cell.id in gone or files & {STATE, CONFIG} or path:
            crashed = f"{leases[path]}, which crashed or was killed" if path else ""
            status = Status(cell, folder, State.LOST, job=gone.get(cell.id, crashed))
        else:
            status = Status(cell, folder, State.PLANNED)
        statuses.append(status)
    return statuses


def _damage(cell: Cell, folder: Path, record_size: int, *, parse: bool) -> str:
    """Return why a cell's record cannot be used; empty if it can.

    Parameters
    ----------
    parse
        Whether it is read; otherwise only an empty file is found out, as power failures leave them.
    """
    if not record_size:
        return f"{folder / RECORD} is empty"
    flaw = record_flaw(folder / RECORD, cell.id) if parse else None
    return f"{folder / RECORD} {flaw}" if flaw else ""


def _is_untidy(files: set[str]) -> bool:
    return any(name in _STATES or name.startswith(LEASE_PREFIX) or is_temporary(name) for name in files)


def explain(status: Status) -> str:
    """Describe a cell beyond its state: its accuracy, its epoch, or why it failed and where its log is."""
    match status.state:
        case State.DONE:
            return _accuracy(status.folder)
        case State.RUNNING:
            return f"{_progress(status)}{status.holder}{f'; {status.job}' if status.job else ''}"
        case State.QUEUED:
            return f"{_progress(status)}{status.job}"
        case State.FAILED:
            return status.damage or _failure(status)
        case State.LOST:
            return f"{_progress(status)}{status.job or 'stopped before it was finished'}"
        case State.PLANNED:
            return ""


def _names(folder: Path | str) -> tuple[set[str], int]:
    """Return the names in a folder, and the size of the record among them."""
    names, record_size = set(), 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        names = {entry.name for entry in entries}
    if RECORD in names:
        with contextlib.suppress(OSError):
            record_size = os.stat(os.path.join(folder, RECORD)).st_size  # noqa: PTH116, PTH118 - called very often
        if not record_size and not os.path.lexists(os.path.join(folder, RECORD)):  # noqa: PTH118
            names.discard(RECORD)  # deleted meanwhile
    return names, record_size


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
