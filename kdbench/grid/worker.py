"""Workers: processes that take what is left of a grid, piece by piece, beside others that do the same."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from kdbench.engine.display import Display
from kdbench.engine.session import Session
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.cell import Cell, by_teacher, lockstep_groups
from kdbench.experiment.folder import FAILURE, RECORD
from kdbench.teachers import cards as teachers
from kdbench.teachers.demand import Wanted
from kdbench.teachers.plan import CacheMode, Watch
from kdbench.utils.leases import Busy, Superseded
from kdbench.utils.scheduler import Scheduler
from kdbench.utils.signals import Stop

_LOOK_EVERY = 1.0
"""Seconds between two looks at what others have done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a worker is to do, in the order of the fields. It is sent to other processes and machines as it is."""

    session: dict[str, Any]
    """What :meth:`Session.open` is called with; paths are absolute."""
    train: tuple[Cell, ...] = ()
    """Cells that train teachers."""
    caches: tuple[Cell, ...] = ()
    """Cells whose teachers' caches are built."""
    cells: tuple[Cell, ...] = ()
    cache: CacheMode = "auto"
    together: int = 1
    """Cells in lockstep at most."""
    shared: bool = False
    """Whether others work on the same pieces: this worker then stays until all of them have ended."""


@dataclass(slots=True)
class Ended:
    """What a worker saw end."""

    done: int = 0
    failed: list[str] = field(default_factory=list)
    """Messages."""
    left: list[str] = field(default_factory=list)
    """Pieces that could not be begun, with the reason."""


@final
class _Impatient(Watch):
    """Shows the building of caches, and does not wait for one that another process builds."""

    def __init__(self, display: Display) -> None:
        self.estimate, self.progress = display.estimate, display.progress  # type: ignore[method-assign]

    def waiting(self, teacher: str) -> None:
        """Give up for now."""
        raise Busy(f"cache of {teacher}: another process is building it")


@final
class Worker:
    """Does a workload. What another live process does already is left to it."""

    def __init__(self, workload: Workload, scheduler: Scheduler, display: Display) -> None:
        self._workload, self._display = workload, display
        # Others that build a cache are waited for only if there is nothing else to do.
        self._builds: Watch = _Impatient(display) if workload.shared else display
        self._session = Session.open(**workload.session, scheduler=scheduler)
        self._runs: Path = self._session.runs
        self._train = {cell.id: cell for cell in workload.train}
        self._caches = by_teacher([cell for cell in workload.caches if cell.teacher])
        self._cells = {cell.id: cell for cell in workload.cells}
        self._ended = Ended()

    def run(self) -> Ended:
        """Go through the workload until nothing is left that this worker could do.

        Raises
        ------
        Interrupted
            A signal came; states are saved.
        """
        with Stop() as stop:
            while self._train or self._caches or self._cells:
                moved = False
                for step in (self._train_teachers, self._build_caches, self._run_cells):
                    moved |= step(lambda: self._obey(stop))
                if not moved:
                    if not self._workload.shared or not self._others_may_help():
                        break
                    time.sleep(_LOOK_EVERY)
        left = (self._train | self._cells).values()
        self._ended.left += [f"{cell}: {self._why_not(cell)}" for cell in left]
        return self._ended

    def _obey(self, stop: Stop) -> None:
        if stop.signum is not None:
            raise Interrupted("stopped between two cells: type the same command to go on", stop.signum)

    def _train_teachers(self, obey: Callable[[], None]) -> bool:
        moved = False
        for cell in list(self._train.values()):
            obey()
            if self._failed(cell) or cell.as_teacher.id in self._teachers():
                del self._train[cell.id]
                moved = True
                continue
            (outcome,) = self._run([cell])
            if isinstance(outcome, dict):
                card = teachers.register_trained(self._runs, cell, outcome)
                self._say(f"teacher {card.spec}: {card.accuracy:.2f} %")
            if not isinstance(outcome, Busy | Superseded):
                del self._train[cell.id]
                moved = True
        return moved

    def _build_caches(self, obey: Callable[[], None]) -> bool:
        moved = False
        for teacher in [teacher for teacher in self._caches if teacher in self._teachers()]:
            obey()
            cells = [cell for cell in self._caches[teacher] if not self._over(cell)]
            try:
                self._session.build_caches(
                    cells, cache=self._workload.cache, together=self._workload.together, watch=self._builds
                )
            except (Busy, Superseded):
                continue
            except Exception as error:
                self._note(error)
            del self._caches[teacher]
            moved = True
        return moved

    def _run_cells(self, obey: Callable[[], None]) -> bool:
        moved = False
        known = self._teachers()
        for group in lockstep_groups(list(self._cells.values()), self._workload.together):
            obey()
            over, ready = [], []
            for cell in group:
                if self._over(cell):
                    over.append(cell)
                elif (cell.teacher is None or cell.teacher.id in known) and self._cached(cell):
                    ready.append(cell)
            for cell, outcome in zip(ready, self._run(ready), strict=True):
                if not isinstance(outcome, Busy | Superseded):
                    over.append(cell)
            for cell in over:
                del self._cells[cell.id]
            moved |= bool(over)
        return moved

    def _run(self, cells: list[Cell]) -> list[Any]:
        # Teachers are trained without one, and caches have been built by now, so nothing is built on the way.
        mode: CacheMode = "ready" if self._workload.cache == "auto" else self._workload.cache
        outcomes = self._session.run_all(
            cells, self._display.observer, cache=mode, together=self._workload.together, watch=self._display
        )
        for cell, outcome in zip(cells, outcomes, strict=True):
            if isinstance(outcome, dict):
                self._display.done(cell, outcome, found=False)
                self._ended.done += 1
            elif not isinstance(outcome, Busy | Superseded):
                self._note(outcome)
        return outcomes

    def _note(self, error: Exception) -> None:
        text = str(error)
        if not isinstance(error, UserError):
            text = "".join(traceback.format_exception(error))
        self._ended.failed.append(text)
        self._say(text)

    def _say(self, text: str) -> None:
        self._display.console.print(text, highlight=False, markup=False)

    def _teachers(self) -> set[str]:
        return {card.id for card in teachers.list_teachers(self._runs, self._session.protocol.name)}

    def _over(self, cell: Cell) -> bool:
        return (cell.folder(self._runs) / RECORD).exists() or self._failed(cell)

    def _failed(self, cell: Cell) -> bool:
        return (cell.folder(self._runs) / FAILURE).exists()

    def _cached(self, cell: Cell) -> bool:
        """Whether a cell need not wait for a cache."""
        return cell.teacher is None or cell.teacher.id not in self._caches or not Wanted.by(cell).cacheable

    def _others_may_help(self) -> bool:
        """Whether waiting makes sense: not for a cell whose teacher can never come."""
        known = self._teachers()
        coming = {cell.as_teacher.id for cell in self._train.values()}
        return any(cell.teacher is None or cell.teacher.id in known | coming for cell in self._cells.values()) or bool(
            self._train
        )

    def _why_not(self, cell: Cell) -> str:
        if cell.teacher and cell.teacher.id not in self._teachers():
            return f"its teacher {cell.teacher.network} is not there"
        return "another process is running it"
