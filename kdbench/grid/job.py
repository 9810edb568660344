"""Run a worker as a job: submitit starts it, signals it before a time limit, and has it started again."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, final

import submitit
from rich.console import Console

from kdbench.engine.devices import check_started
from kdbench.engine.display import Display
from kdbench.engine.follow import follow_launch
from kdbench.engine.session import Session
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import RECORD, STATE
from kdbench.grid.submissions import REPORT
from kdbench.grid.worker import Worker, Workload, print_line
from kdbench.search.choices import Choices
from kdbench.teachers.cache_folder import FOLDER as CACHES
from kdbench.utils.files import NotWritten, paths_in, write_json
from kdbench.utils.leases import Leases
from kdbench.utils.scheduler import Scheduler
from kdbench.utils.signals import Stop
from kdbench.utils.text import counted

MAX_IDLE_STARTS = 3
"""Starts in a row without progress after which a job is not started again."""


@final
class GridJob:
    """Do a workload as a job, which resumes wherever it was each time it is started.

    Parameters
    ----------
    make_scheduler
        Makes the batch system that the job asks about other processes; called in the job.
    folder
        A folder that the job holds while it runs, so that others can tell; None where a batch system tells.
    """

    def __init__(
        self, workload: Workload, make_scheduler: Callable[[], Scheduler] = Scheduler, folder: Path | None = None
    ) -> None:
        self.workload, self.make_scheduler, self.folder = workload, make_scheduler, folder
        self.idle_starts, self.mark = 0, 0

    def __call__(self) -> None:
        """Do the workload; a job in which something failed exits with code 1."""
        self.mark = progress_mark(self.workload)
        console = Console(width=160, highlight=False, markup=False, emoji=False, force_terminal=False)
        scheduler = self.make_scheduler()
        code = resources.files("kdbench")
        print_line(console, f"kdbench {code}, process {os.getpid()}, {scheduler.own_job() or ''}")
        if self._helps(scheduler):
            return
        try:
            # From its lease on, others may signal it to stop.
            with Stop(), Leases(scheduler) as leases, Display(console) as display:
                if self.folder:
                    leases.hold(self.folder)
                    (self.folder / REPORT).unlink(missing_ok=True)
                report = Worker(self.workload, scheduler, display).run()
        except Interrupted as stopped:
            print_line(console, str(stopped))
            self._write_report({"stopped": stopped.signum})
            if stopped.signum == signal.SIGUSR2:  # states are saved: now submitit may have the job started again
                signal.raise_signal(signal.SIGUSR2)
            sys.exit(128 + stopped.signum)
        for text in report.left:
            print_line(console, f"left: {text}")
        self._write_report(dataclasses.asdict(report))
        print_line(
            console, f"{counted(report.done, 'cell')} done, {len(report.failed)} failed, {len(report.left)} left"
        )
        if report.failed or report.left:
            sys.exit(1)

    def _helps(self, scheduler: Scheduler) -> bool:
        """Help another task of this job with the cells, if this is not the first one; return whether it was not."""
        place = check_started(self.workload.session.get("devices", 1))
        if not place or not place.rank:
            return False
        session = Session.open(**self.workload.session, scheduler=scheduler)
        with Stop():  # its signals are those of the whole job: the first task acts on them
            return follow_launch(session, [*self.workload.train, *self.workload.cells, *known_cells(self.workload)])

    def _write_report(self, values: dict[str, Any]) -> None:
        if self.folder:
            try:
                write_json(self.folder / REPORT, values)
            except NotWritten:  # an empty file says enough, and needs no space
                (self.folder / REPORT).touch()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission | None:
        """Return the job to start again; None if the last starts made no progress."""
        mark = progress_mark(self.workload)
        self.idle_starts = self.idle_starts + 1 if mark == self.mark else 0
        if self.idle_starts >= MAX_IDLE_STARTS:
            sys.stdout.write(f"{self.idle_starts} starts in a row without progress: is the time limit too short?\n")
            return None
        return submitit.helpers.DelayedSubmission(self)


def progress_mark(workload: Workload) -> int:
    """Return a number that changes whenever a state, a record or a segment of a cache has been saved."""
    runs = Path(workload.session["runs"])
    cells = [*workload.train, *workload.caches, *workload.cells, *known_cells(workload)]
    files = [cell.folder(runs) / name for cell in cells for name in (STATE, RECORD)]
    if workload.caches:
        files += paths_in(runs / CACHES, "*/*/*")
    return sum(map(_changed, files))


def known_cells(workload: Workload) -> list[Cell]:
    """Return the cells of a workload's slots that are known by now."""
    choices = Choices(Path(workload.session["runs"]), writes=False)
    with contextlib.suppress(UserError):  # the worker names what is damaged
        return [cell for slot in workload.slots if (cell := slot.cell(choices))]
    return []


def _changed(path: Path) -> int:
    """Return when a file was last written; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
