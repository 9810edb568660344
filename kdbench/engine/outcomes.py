"""What became of each cell: its record, or why there is none."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

from kdbench.data.images import Unread
from kdbench.engine.divergence import Diverged
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import FAILURE
from kdbench.utils.device import is_out_of_memory
from kdbench.utils.files import NotWritten, write_json
from kdbench.utils.leases import Busy, Superseded
from kdbench.utils.ranks import RankLost, Ranks
from kdbench.utils.text import one_line

Outcome = dict[str, Any] | Exception
"""A cell's record, or why there is none."""


class Worked(Protocol):
    """A cell that this process works on, such as a run."""

    @property
    def cell(self) -> Cell:
        """The cell."""

    @property
    def folder(self) -> Path:
        """Where the reason of a failure is left."""

    @property
    def permit(self) -> Callable[[], None]:
        """Raises if this process may not write there any more."""


@final
@dataclass(frozen=True, slots=True)
class Held:
    """A cell whose folder this process holds, or whose folder is held by the process that it follows."""

    cell: Cell
    folder: Path
    permit: Callable[[], None]


@final
class Outcomes:
    """Records and errors of some cells; the reason of a failure is left in the cell's folder as well."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._by_id: dict[str, Outcome] = {}

    def set(self, cell: Cell, outcome: Outcome) -> None:
        """Note a cell's record or error."""
        self._by_id[cell.id] = outcome

    def has(self, cell: Cell) -> bool:
        """Return whether a cell has ended."""
        return cell.id in self._by_id

    def check(self, cell: Cell) -> None:
        """Raise the error with which a cell has ended, if it has."""
        outcome = self._by_id.get(cell.id)
        if isinstance(outcome, Exception):
            raise outcome

    def agree(self, runs: Sequence[Worked], ranks: Ranks) -> None:
        """End a run that has ended in some process in all of them.

        Parameters
        ----------
        runs
            Equal in all processes.
        """
        ended = [self.has(run.cell) for run in runs]
        answers = ranks.highest([*ended, *(not each for each in ended)])
        if any(map(min, answers[: len(runs)], answers[len(runs) :])):  # ended in some, not in others
            texts = {run.cell.id: str(self._by_id[run.cell.id]) for run in runs if self.has(run.cell)}
            kinds = {name: isinstance(self._by_id[name], Unread) for name in texts}
            self._take_over(runs, ranks.tell_all([texts, kinds]))

    def _take_over(self, runs: Sequence[Worked], of_all: Sequence[tuple[dict[str, str], dict[str, bool]]]) -> None:
        """End runs with the reasons that other processes have."""
        for run in runs:
            for texts, unread in of_all:
                if run.cell.id in texts and not self.has(run.cell):
                    self.fail(run, (Unread if unread[run.cell.id] else UserError)(texts[run.cell.id]))

    def stop(self, held: Sequence[Worked], reason: str) -> None:
        """End the cells that are still in progress, since another process that computes them has ended."""
        for each in held:
            if not self.has(each.cell) or isinstance(self._by_id[each.cell.id], RankLost):
                self.fail(each, RankLost(f"{each.cell} was stopped ({reason}): type the same command to resume"))

    def list(self) -> list[Outcome]:
        """Return the outcomes in the order of the cells."""
        return [self._by_id[cell.id] for cell in self._cells]

    @contextlib.contextmanager
    def of(self, cell: Cell, folder: Path | None = None, permit: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Turn what goes wrong inside into the cell's outcome.

        Parameters
        ----------
        folder
            Where the reason is left, if it is given.
        permit
            Raises if this process may not write any more.
        """
        try:
            yield
        except Exception as error:
            self._fail(cell, error, folder, permit)

    def attempt(self, run: Worked) -> contextlib.AbstractContextManager[None]:
        """Let what goes wrong inside end this run alone."""
        return self.of(run.cell, run.folder, run.permit)

    def fail(self, run: Worked, error: Exception) -> None:
        """End a run with an error."""
        self._fail(run.cell, error, run.folder, run.permit)

    def _fail(self, cell: Cell, error: Exception, folder: Path | None, permit: Callable[[], None]) -> None:
        outcome: Exception = error
        match error:
            case Busy() | Superseded() | NotWritten() | Unread() | RankLost():  # another process, or a disk
                self.set(cell, error)
                return
            case Diverged():
                failure = {"reason": error.reason, "text": str(error)} | error.failure
            case UserError():
                failure = {"reason": error.reason, "text": str(error)}
            case MemoryError() | RuntimeError() if is_out_of_memory(error):
                text = one_line(error)
                outcome = UserError(
                    f"{cell} failed: out of memory ({text}); its last state is kept in {folder}. Smaller sizes with "
                    "--set, or fewer cells with --lockstep, need less"
                )
                failure = {"reason": "out of memory", "text": text}
            case _:
                trace = "".join(traceback.format_exception(error))
                failure = {"reason": "error", "text": f"{type(error).__name__}: {error}", "traceback": trace}
        self.set(cell, outcome)
        if folder:
            with contextlib.suppress(UserError):  # a full disk must not hide the reason
                write_json(folder / FAILURE, failure, permit=permit)
