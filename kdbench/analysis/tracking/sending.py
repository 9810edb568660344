"""Send the rows of all cells below a folder to a tracker, each row once.

What was sent is noted in a file for each cell, ``.kdbench/PLACE/CELL.json`` below the tracker's folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from kdbench.analysis.records import CELL_FOLDER, folders_below
from kdbench.analysis.tracking.cells import TrackedCell, read_tracked
from kdbench.analysis.tracking.tracker import Tracker, explained
from kdbench.errors import UserError
from kdbench.experiment.folder import CONFIG, RECORD
from kdbench.utils.files import write_atomic
from kdbench.utils.leases import LEASE_PREFIX, holder_of, living
from kdbench.utils.reading import Missing, Unreadable, read_object
from kdbench.utils.scheduler import Scheduler

NOTES = ".kdbench"


@final
@dataclass(slots=True)
class Tracked:
    """What a look at all cells came to."""

    num_cells: int = 0
    num_sent: int = 0
    """Rows that were sent."""
    num_anew: int = 0
    """Cells whose rows were sent anew, since rows that had been sent have changed."""
    problems: list[str] = field(default_factory=list)
    """Files and lines that cannot be read."""
    running: bool = False
    """Whether a live process works on something in the folder of runs."""


@final
class Sender:
    """Send what is new to a tracker; cells that have ended are looked at once."""

    def __init__(self, runs: Path, out: Path, tracker: Tracker) -> None:
        if not runs.is_dir():
            raise UserError(f"the folder {runs} does not exist: 'kdbench demo' and 'kdbench train' create one")
        self._runs, self._tracker = runs, tracker
        place = hashlib.sha256(tracker.place.encode()).hexdigest()[:8]
        self.notes = out / NOTES / f"{tracker.NAME}-{place}"
        """Folder of the notes on what was sent."""
        self._done: set[str] = set()
        self.tracked = Tracked()

    def send(self, scheduler: Scheduler) -> Iterator[str]:
        """Send what is new; yields the name of each cell before it is looked at.

        Raises
        ------
        UserError
            The tracker's package fails, or a file cannot be written.
        """
        tracked = self.tracked
        tracked.problems, tracked.running, tracked.num_cells = [], False, len(self._done)
        for folder, names in folders_below(self._runs, tracked.problems):
            tracked.running |= any(name.startswith(LEASE_PREFIX) for name in names) and _lives(folder, scheduler)
            if folder in self._done or not names & {RECORD, CONFIG}:
                continue
            yield folder
            cell = self._read(Path(folder), names)
            if cell:
                tracked.num_cells += 1
                tracked.problems += cell.problems
                self._send(cell)
                if cell.state == "finished":
                    self._done.add(folder)

    def _read(self, folder: Path, names: set[str]) -> TrackedCell | None:
        try:
            return read_tracked(folder, names)
        except Missing:
            return None  # deleted meanwhile
        except Unreadable as error:
            if RECORD in names or CELL_FOLDER.fullmatch(folder.name):
                self.tracked.problems.append(
                    f"{folder / (RECORD if RECORD in names else CONFIG)} is left out: it {error}"
                )
            return None

    def _send(self, cell: TrackedCell) -> None:
        path = self.notes / f"{cell.id}.json"
        note = read_object(path)
        noted = note.get("rows")
        sent = noted if isinstance(noted, list) else []
        attempt = note["attempt"] if type(note.get("attempt")) is int else 1
        digests = [row.digest for row in cell.rows]
        if digests[: len(sent)] != sent:
            if cell.state != "finished" and sent[: len(digests)] == digests:
                return  # it was resumed at an earlier epoch, and comes to these rows again
            sent, attempt = [], attempt + 1
            self.tracked.num_anew += 1
        elif note.get("state") == cell.state and len(sent) == len(digests):
            return
        with explained(self._tracker.NAME):
            kept = self._tracker.begin(cell, len(sent), attempt)
            if note and kept < len(digests):  # until all is sent, what the run holds
                _write(path, cell, digests[:kept], attempt, "")
            self._tracker.send(cell, cell.rows[kept:])
        self.tracked.num_sent += len(digests) - kept
        _write(path, cell, digests, attempt, cell.state)


def _write(path: Path, cell: TrackedCell, digests: list[str], attempt: int, state: str) -> None:
    note = {"name": cell.name, "state": state, "attempt": attempt, "rows": digests}
    write_atomic(path, json.dumps(note) + "\n", "choose another folder with --out DIR")


def _lives(folder: str, scheduler: Scheduler) -> bool:
    held = holder_of(Path(folder))
    return held is not None and bool(living(dict([held]), scheduler))
