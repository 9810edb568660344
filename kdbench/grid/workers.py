"""Start, watch and stop workers on this machine, as jobs of submitit's local executor."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import submitit

from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.grid.code_copy import copy_code
from kdbench.grid.grid import Grid
from kdbench.grid.job import GridJob
from kdbench.grid.leftovers import tidy_submission
from kdbench.grid.submissions import REPORT, Launch, Submission, SubmittedJob, is_held, new_folder
from kdbench.grid.worker import Workload
from kdbench.search.slots import Slot
from kdbench.utils.leases import Leases, holder_of
from kdbench.utils.scheduler import Scheduler

_YEAR_MINUTES = 365 * 24 * 60
"""Time limit that submitit is given; workers have none."""
_START_SECONDS = 120


@final
class Workers:
    """Start processes that share a workload and outlive this one.

    Parameters
    ----------
    leases
        Hold the submission's folder while this process may start workers.
    """

    def __init__(
        self, grid: Grid, cells: Sequence[Cell], slots: Sequence[Slot], launch: Launch, leases: Leases
    ) -> None:
        self._scheduler = grid.session.scheduler
        needed = {teacher for cell in (*cells, *(slot.stand_in for slot in slots)) for teacher in cell.teacher_ids}
        self._workload = Workload(
            session=launch.session(grid),
            train=tuple(cell for cell in grid.to_train if cell.as_teacher.id in needed),
            caches=() if launch.cache == "off" else tuple(cells),
            cells=tuple(cells),
            slots=tuple(slots),
            cache=launch.cache,
            lockstep=launch.lockstep,
            shared=True,
        )
        folder = new_folder(grid, "local")
        leases.hold(folder)
        setup = copy_code(folder)
        ids = tuple(cell.id for cell in (*self._workload.train, *cells))
        keys = tuple(slot.key for slot in slots)
        jobs = tuple(SubmittedJob(f"worker-{number}", "all", ids, keys) for number in range(1, launch.jobs + 1))
        self.submission = Submission(
            folder=folder,
            launcher="local",
            cluster="",
            profile={},
            launch=launch,
            jobs=jobs,
            file=str(grid.file.path.absolute()),
        )
        self.submission.write()
        self._jobs: dict[int, Any] = {}
        self._setups = [[*setup, *_worker_setup(number, launch)] for number in range(launch.jobs)]
        for number in range(launch.jobs):
            self.start(number)

    def start(self, number: int) -> None:
        """Start a worker, counted from 0."""
        folder = self._folder(number)
        executor = submitit.LocalExecutor(folder)
        folder.mkdir(exist_ok=True)
        # A worker that outlives the command that started it must not keep its terminal or pipe.
        detach = f"exec >>{shlex.quote(str(folder / 'start.log'))} 2>&1 </dev/null"
        setup = [detach, *self._setups[number]]
        executor.update_parameters(setup=setup, timeout_min=_YEAR_MINUTES, stderr_to_stdout=True)
        self._jobs[number] = executor.submit(GridJob(self._workload, type(self._scheduler), folder))

    def alive(self, number: int) -> bool:
        """Return whether a worker is running, with or without the process that started it."""
        return not self._jobs[number].done() or is_held(self._folder(number), self._scheduler)

    def ended(self, number: int) -> bool:
        """Return whether a worker has nothing more to do."""
        return (self._folder(number) / REPORT).exists()

    def wait_until_up(self) -> None:
        """Wait until every worker has begun.

        Raises
        ------
        UserError
            A worker ended before it began; the text names its log.
        """
        end = time.monotonic() + _START_SECONDS
        for number in self._jobs:
            folder = self._folder(number)
            while not is_held(folder, self._scheduler) and time.monotonic() < end:
                if self.ended(number):
                    break
                if self._jobs[number].done():
                    raise UserError(f"worker {number + 1} crashed when it started: read its log in {folder}")
                time.sleep(0.1)

    def clean_up(self) -> None:
        """Wait for workers that have ended, and delete the copy of the code: no worker will be started any more."""
        while not all(job.done() for job in self._jobs.values()):
            time.sleep(0.05)
        tidy_submission(self.submission, self._scheduler)

    def stop(self) -> None:
        """Let every worker save and stop, and wait for them."""
        for number, job in enumerate(self.submission.jobs):
            while self.alive(number):
                if is_held(self._folder(number), self._scheduler):
                    stop_worker(self.submission, job, self._scheduler)
                time.sleep(0.2)
        self.clean_up()

    def _folder(self, number: int) -> Path:
        return self.submission.folder / f"worker-{number + 1}"


def stop_worker(submission: Submission, job: SubmittedJob, scheduler: Scheduler) -> str:
    """Let a worker save and stop, waiting for one that is being started; return a message, empty if it has ended.

    Raises
    ------
    UserError
        The worker runs on another machine.
    """
    folder = submission.folder / job.id
    end = time.monotonic() + _START_SECONDS
    while not is_held(folder, scheduler):
        if not submission.starts(job, scheduler) or time.monotonic() > end:
            return ""
        time.sleep(0.1)
    held = holder_of(folder)
    if not held:
        return ""
    _, holder = held
    if holder.host != os.uname().nodename:
        raise UserError(f"{job.id} is {holder}: type the same command on {holder.host}")
    with contextlib.suppress(ProcessLookupError):
        os.kill(holder.pid, signal.SIGTERM)
    return f"stopping {job.id} (process {holder.pid}), which saves its running cells"


def _worker_setup(number: int, launch: Launch) -> list[str]:
    """Return lines of shell that give a worker its share of the machine, and leave Ctrl-C to the watching process."""
    lines = ["trap '' INT HUP"]
    threads = max(1, (os.cpu_count() or 1) // launch.jobs)
    if "OMP_NUM_THREADS" not in os.environ:
        lines.append(f"export OMP_NUM_THREADS={threads}")
    # submitit hides all GPUs from a local job that names none.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if launch.device is None and (gpus := _gpus(visible)):
        num_shares = max(1, len(gpus) // launch.devices)
        first = number % num_shares * launch.devices
        visible = ",".join(gpus[first : first + launch.devices])
    lines.append("unset CUDA_VISIBLE_DEVICES" if visible is None else f"export CUDA_VISIBLE_DEVICES='{visible}'")
    return lines


def _gpus(visible: str | None) -> list[str]:
    """Return the names of this machine's GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    if visible is not None:
        return [name for name in visible.split(",") if name]
    import torch  # noqa: PLC0415 - takes seconds

    return [str(number) for number in range(torch.cuda.device_count())]
