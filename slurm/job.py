"""What a job runs: a worker, which submitit starts, signals before a time limit, and has Slurm start again."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from importlib import resources
from pathlib import Path
from typing import final

import submitit
from rich.console import Console

from kdbench.engine.display import Display
from kdbench.errors import Interrupted
from kdbench.experiment.folder import RECORD, STATE
from kdbench.grid.worker import Worker, Workload
from kdbench.teachers.cache import FOLDER as CACHES
from kdbench.utils.files import write_json
from kdbench.utils.leases import Leases

from .scheduler import Slurm

ENDED = "ended.json"
"""What a worker leaves in its place when nothing is left to do or it was told to stop; one that died leaves nothing."""
MAX_IDLE_STARTS = 3
"""Starts in a row without progress after which a job is not started again."""


@final
class GridJob:
    """A workload as a job, which goes on where it was whenever it is started again.

    Parameters
    ----------
    place
        A folder that the job holds while it lives, so that others can tell; None where a batch system tells.
    """

    def __init__(self, workload: Workload, place: Path | None = None) -> None:
        self.workload, self.place = workload, place
        self.idle_starts, self.mark = 0, 0

    def __call__(self) -> None:
        """Do the workload; a job in which something failed ends with exit code 1."""
        self.mark = progress_mark(self.workload)
        say = Console(width=160, highlight=False, force_terminal=False)
        scheduler = Slurm()
        code = resources.files("kdbench")
        say.print(f"kdbench {code}, process {os.getpid()}, {scheduler.own_job() or ''}")
        try:
            with Leases(scheduler) as leases, Display(say) as display:
                if self.place:
                    leases.hold(self.place)
                    (self.place / ENDED).unlink(missing_ok=True)
                ended = Worker(self.workload, scheduler, display).run()
        except Interrupted as stopped:
            say.print(str(stopped), markup=False)
            if self.place:
                write_json(self.place / ENDED, {"stopped": stopped.signum})
            if stopped.signum == signal.SIGUSR2:  # states are saved: now submitit may have the job started again
                signal.raise_signal(signal.SIGUSR2)
            sys.exit(128 + stopped.signum)
        for text in ended.left:
            say.print(f"left: {text}", markup=False)
        if self.place:
            write_json(self.place / ENDED, dataclasses.asdict(ended))
        say.print(f"{ended.done} cells done, {len(ended.failed)} failed, {len(ended.left)} left")
        if ended.failed or ended.left:
            sys.exit(1)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission | None:
        """Return what is to be started again; None if the last starts have led nowhere."""
        mark = progress_mark(self.workload)
        self.idle_starts = self.idle_starts + 1 if mark == self.mark else 0
        if self.idle_starts >= MAX_IDLE_STARTS:
            sys.stdout.write(f"{self.idle_starts} starts in a row without progress: is the time limit too short?\n")
            return None
        return submitit.helpers.DelayedSubmission(self)


def progress_mark(workload: Workload) -> int:
    """Return a number that changes whenever a state, a record or a piece of a cache has been saved."""
    runs = Path(workload.session["runs"])
    cells = [*workload.train, *workload.caches, *workload.cells]
    files = [cell.folder(runs) / name for cell in cells for name in (STATE, RECORD)]
    if workload.caches:
        files += (runs / CACHES).glob("*/*/*")
    return sum(path.stat().st_mtime_ns for path in files if path.exists())
