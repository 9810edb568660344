"""Work through what is left of a grid, piece by piece, beside other processes that do the same."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from rich.console import Console

from kdbench.engine.display import Display
from kdbench.engine.run_state import tidy_ended
from kdbench.engine.session import Session
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.cell import Cell, by_teacher, lockstep_groups
from kdbench.experiment.folder import FAILURE, RECORD
from kdbench.search.choices import Choices
from kdbench.search.slots import Slot
from kdbench.teachers.cache import DoesNotFit
from kdbench.teachers.cards import list_teachers
from kdbench.teachers.demand import Wanted
from kdbench.teachers.make import register_trained
from kdbench.teachers.plan import CacheMode
from kdbench.teachers.watch import Estimate, Watch
from kdbench.utils.files import NotWritten
from kdbench.utils.leases import Busy, Superseded
from kdbench.utils.scheduler import Scheduler
from kdbench.utils.signals import Stop

_POLL_SECONDS = 1.0
"""Seconds between two looks at what others have done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The work of one worker, in the order of the fields. It is pickled for other processes and machines."""

    session: dict[str, Any]
    """Arguments of :meth:`Session.open`; paths are absolute."""
    train: tuple[Cell, ...] = ()
    """Cells that train teachers."""
    caches: tuple[Cell, ...] = ()
    """Cells whose teachers' caches are built."""
    cells: tuple[Cell, ...] = ()
    slots: tuple[Slot, ...] = ()
    """Cells of a search that are known once others have ended."""
    cache: CacheMode = "auto"
    lockstep: int = 1
    """Maximum number of cells in lockstep."""
    shared: bool = False
    """Whether others work on the same cells: this worker then stays until all of them have ended.

    It also builds the caches of cells that are known later; an array of Slurm has built them before.
    """


@dataclass(slots=True)
class WorkerReport:
    """Summarise what a worker did."""

    done: int = 0
    """Number of cells that this worker finished."""
    failed: list[str] = field(default_factory=list)
    """Messages of the errors."""
    left: list[str] = field(default_factory=list)
    """Cells that could not be started, with the reason."""


@final
class _WithoutWaiting(Watch):
    """Show the building of caches, and give up on a cache that another process is building."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def estimate(self, teacher: str, estimate: Estimate) -> None:
        """Show what building a cache will take."""
        self._display.estimate(teacher, estimate)

    def progress(self, done: int, total: int, seconds_left: float) -> None:
        """Show how far the building of a cache is."""
        self._display.progress(done, total, seconds_left)

    def waiting(self, teacher: str) -> None:
        """Give up for now."""
        raise Busy(f"cache of {teacher}: another process is building it")


@final
class Worker:
    """Do a workload, and leave to other live processes what they have begun."""

    def __init__(self, workload: Workload, scheduler: Scheduler, display: Display) -> None:
        self._workload, self._display = workload, display
        # A shared worker waits for a cache that another process builds only if there is nothing else to do.
        self._cache_watch: Watch = _WithoutWaiting(display) if workload.shared else display
        self._session = Session.open(**workload.session, scheduler=scheduler)
        self._runs: Path = self._session.runs
        self._train = {cell.id: cell for cell in workload.train}
        self._caches = by_teacher([cell for cell in workload.caches if cell.teacher])
        self._cells = {cell.id: cell for cell in workload.cells}
        self._slots = {slot.key: slot for slot in workload.slots}
        self._report = WorkerReport()

    def run(self) -> WorkerReport:
        """Work until nothing is left that this worker could do.

        Raises
        ------
        Interrupted
            A signal came; states are saved.
        """
        unwritten = False
        with Stop() as stop:
            try:
                self._work(lambda: self._check_signal(stop))
            except (NotWritten, OSError) as error:  # a full disk, say, on which every cell would end like this
                self._note(error)
                unwritten = True
        left = (self._train | self._cells).values()
        self._report.left += [f"{cell}: {'not run' if unwritten else self._why_left(cell)}" for cell in left]
        self._report.left += [f"{slot}: trials before it have not ended" for slot in self._slots.values()]
        return self._report

    def _work(self, check_signal: Callable[[], None]) -> None:
        while self._train or self._caches or self._cells or self._slots:
            moved = False
            for stage in (self._train_teachers, self._fill_slots, self._build_caches, self._run_cells):
                moved |= stage(check_signal)
            if not moved:
                if not self._workload.shared or not self._others_may_help():
                    break
                time.sleep(_POLL_SECONDS)

    def _check_signal(self, stop: Stop) -> None:
        if stop.signum is not None:
            raise Interrupted("stopped between two cells: type the same command to resume", stop.signum)

    def _train_teachers(self, check_signal: Callable[[], None]) -> bool:
        moved = False
        for cell in list(self._train.values()):
            check_signal()
            if self._has_failed(cell) or cell.as_teacher.id in self._teacher_ids():
                tidy_ended(cell.folder(self._runs), self._session.scheduler)
                del self._train[cell.id]
                moved = True
                continue
            (outcome,) = self._run([cell])
            if isinstance(outcome, dict):
                self._register(cell, outcome)
            if not isinstance(outcome, Busy | Superseded):
                del self._train[cell.id]
                moved = True
        return moved

    def _register(self, cell: Cell, record: dict[str, Any]) -> None:
        try:
            card = register_trained(self._runs, cell, record)
        except NotWritten:
            raise
        except Exception as error:
            self._note(error)
        else:
            print_line(self._display.console, f"teacher {card.spec}: {card.percent}")

    def _fill_slots(self, _: Callable[[], None]) -> bool:
        """Look which cells of the search are known by now."""
        choices = Choices(self._runs, writes=True)
        try:
            known = {key: cell for key, slot in self._slots.items() if (cell := slot.cell(choices))}
        except UserError as error:
            self._note(error)
            self._slots.clear()
            return False
        for key, cell in known.items():
            del self._slots[key]
            self._cells[cell.id] = cell
        if self._workload.shared and self._workload.cache != "off":
            for teacher, cells in by_teacher([cell for cell in known.values() if cell.teacher]).items():
                self._caches.setdefault(teacher, []).extend(cells)
        return bool(known)

    def _build_caches(self, check_signal: Callable[[], None]) -> bool:
        moved = False
        ids = self._teacher_ids()
        for teacher in [each for each, cells in self._caches.items() if is_taught(cells[0], ids)]:
            check_signal()
            cells = [cell for cell in self._caches[teacher] if not self._has_ended(cell)]
            try:
                self._session.build_caches(
                    cells, cache=self._workload.cache, together=self._workload.lockstep, watch=self._cache_watch
                )
            except (Busy, Superseded):
                continue
            except DoesNotFit as error:  # cells that do not need it can run
                self._note(error)
            except NotWritten:
                raise
            except Exception as error:
                self._note(error)
            del self._caches[teacher]
            moved = True
        return moved

    def _run_cells(self, check_signal: Callable[[], None]) -> bool:
        moved = False
        teacher_ids = self._teacher_ids()
        for group in lockstep_groups(list(self._cells.values()), self._workload.lockstep):
            check_signal()
            ended, ready = [], []
            for cell in group:
                if self._has_ended(cell):
                    tidy_ended(cell.folder(self._runs), self._session.scheduler)
                    ended.append(cell)
                elif is_taught(cell, teacher_ids) and self._is_cached(cell):
                    ready.append(cell)
            for cell, outcome in zip(ready, self._run(ready), strict=True):
                if not isinstance(outcome, Busy | Superseded):
                    ended.append(cell)
            for cell in ended:
                del self._cells[cell.id]
            moved |= bool(ended)
        return moved

    def _run(self, cells: list[Cell]) -> list[Any]:
        # Teachers are trained without one, and caches have been built by now, so nothing is built on the way.
        mode: CacheMode = "ready" if self._workload.cache == "auto" else self._workload.cache
        outcomes = self._session.run_all(
            cells, self._display.observer, cache=mode, together=self._workload.lockstep, watch=self._display
        )
        for cell, outcome in zip(cells, outcomes, strict=True):
            if isinstance(outcome, NotWritten) and not isinstance(outcome, DoesNotFit):
                raise outcome
            if isinstance(outcome, dict):
                # Another worker may have finished it since it was chosen, and counts it.
                existed = not self._display.shows(cell)
                self._display.done(cell, outcome, existed=existed)
                self._report.done += not existed
            elif not isinstance(outcome, Busy | Superseded):
                self._note(outcome)
        return outcomes

    def _note(self, error: Exception) -> None:
        text = str(error)
        if not isinstance(error, UserError):
            text = "".join(traceback.format_exception(error))
        self._report.failed.append(text)
        print_line(self._display.console, text)

    def _teacher_ids(self) -> set[str]:
        return {card.id for card in list_teachers(self._runs, self._session.protocol.name)}

    def _has_ended(self, cell: Cell) -> bool:
        return (cell.folder(self._runs) / RECORD).exists() or self._has_failed(cell)

    def _has_failed(self, cell: Cell) -> bool:
        return (cell.folder(self._runs) / FAILURE).exists()

    def _is_cached(self, cell: Cell) -> bool:
        """Return whether a cell need not wait for a cache."""
        return cell.teacher is None or cell.teacher.id not in self._caches or not Wanted.by(cell).cacheable

    def _others_may_help(self) -> bool:
        """Return whether waiting makes sense: not for a cell whose teacher will never exist."""
        to_train = {cell.as_teacher.id for cell in self._train.values()}
        teacher_ids = self._teacher_ids() | to_train
        return any(is_taught(cell, teacher_ids) for cell in self._cells.values()) or bool(to_train)

    def _why_left(self, cell: Cell) -> str:
        if cell.teacher and not is_taught(cell, self._teacher_ids()):
            return f"its teacher {cell.teacher.name} does not exist"
        return "another process is running it"


def print_line(console: Console, text: str) -> None:
    """Print a line of a worker's log, unless its disk is full."""
    with contextlib.suppress(OSError):
        console.print(text, highlight=False, markup=False)


def is_taught(cell: Cell, teacher_ids: Collection[str]) -> bool:
    """Return whether a cell's teacher, or each member of it, is among those that exist."""
    return all(teacher in teacher_ids for teacher in cell.teacher_ids)
