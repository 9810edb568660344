"""Workers on this machine, by the same path as jobs on Slurm: submitit's local executor starts them."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import submitit

from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.grid.grid import Grid
from kdbench.grid.worker import Workload
from kdbench.utils.leases import holder_of

from .job import ENDED, GridJob
from .submissions import CODE, Launch, Sent, Submission, freeze_code, lives, new_folder

_A_YEAR = 365 * 24 * 60
"""Minutes; workers have no time limit."""
_START_SECONDS = 120


@final
class Workers:
    """Processes that share a workload and live on when this one ends."""

    def __init__(self, grid: Grid, cells: Sequence[Cell], launch: Launch) -> None:
        num = launch.jobs
        needed = {cell.teacher.id for cell in cells if cell.teacher}
        self._workload = Workload(
            session=launch.session(grid),
            train=tuple(cell for cell in grid.to_train if cell.as_teacher.id in needed),
            caches=() if launch.cache == "off" else tuple(cells),
            cells=tuple(cells),
            cache=launch.cache,
            together=launch.together,
            shared=True,
        )
        folder = new_folder(grid, "local")
        setup = freeze_code(folder)
        ids = tuple(cell.id for cell in (*self._workload.train, *cells))
        jobs = tuple(Sent(f"worker-{number}", "all", ids) for number in range(1, num + 1))
        self.submission = Submission(folder=folder, kind="local", cluster="", profile={}, launch=launch, jobs=jobs)
        self.submission.write()
        self._jobs: dict[int, Any] = {}
        self._setups = [[*setup, *_own(number, launch)] for number in range(num)]
        for number in range(num):
            self.start(number)

    def start(self, number: int) -> None:
        """Start a worker, counted from 0."""
        place = self._place(number)
        executor = submitit.LocalExecutor(place)
        place.mkdir(exist_ok=True)
        # A worker that goes on by itself must not keep the terminal, or a pipe, of the command that started it.
        apart = f"exec >>{shlex.quote(str(place / 'start.log'))} 2>&1 </dev/null"
        executor.update_parameters(setup=[apart, *self._setups[number]], timeout_min=_A_YEAR, stderr_to_stdout=True)
        self._jobs[number] = executor.submit(GridJob(self._workload, place))

    def alive(self, number: int) -> bool:
        """Whether a worker lives; one that lost the process that started it lives too."""
        return not self._jobs[number].done() or lives(self._place(number))

    def ended(self, number: int) -> bool:
        """Whether a worker found nothing more to do."""
        return (self._place(number) / ENDED).exists()

    def wait_until_up(self) -> None:
        """Wait until every worker has begun.

        Raises
        ------
        UserError
            One ended before it did; the text says where its log is.
        """
        end = time.monotonic() + _START_SECONDS
        for number in self._jobs:
            while not lives(self._place(number)) and time.monotonic() < end:
                if self.ended(number):
                    break
                if self._jobs[number].done():
                    raise UserError(f"worker {number + 1} ended at once; its log is in {self._place(number)}")
                time.sleep(0.1)

    def tidy(self) -> None:
        """Wait for what has ended, and drop the copy of the code: nothing will be started any more."""
        while not all(job.done() for job in self._jobs.values()):
            time.sleep(0.05)
        shutil.rmtree(self.submission.folder / CODE, ignore_errors=True)

    def stop(self) -> None:
        """Let every worker save and stop, and wait for them."""
        for number, job in enumerate(self.submission.jobs):
            while self.alive(number):  # one that has just been started cannot be told yet
                stop_worker(self.submission, job)
                time.sleep(0.2)
        self.tidy()

    def _place(self, number: int) -> Path:
        return self.submission.folder / f"worker-{number + 1}"


def stop_worker(submission: Submission, job: Sent) -> str:
    """Let a worker save and stop; return what was done, in words, or nothing if it does not live."""
    place = submission.folder / job.id
    found = holder_of(place)
    if not found or not lives(place):
        return ""
    _, holder = found
    if holder.host != os.uname().nodename:
        raise UserError(f"{job.id} is {holder}: type the same command there")
    os.kill(holder.pid, signal.SIGTERM)
    return f"{job.id}, process {holder.pid}, saves and stops"


def _own(number: int, launch: Launch) -> list[str]:
    """Lines of shell that give a worker its share of the machine, and keep Ctrl-C for the process that watches."""
    lines = ["trap '' INT HUP"]
    threads = max(1, (os.cpu_count() or 1) // launch.jobs)
    if "OMP_NUM_THREADS" not in os.environ:
        lines.append(f"export OMP_NUM_THREADS={threads}")
    # submitit hides all GPUs from a local job that names none.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if launch.device is None and (gpus := _gpus(visible)):
        visible = gpus[number % len(gpus)]
    lines.append("unset CUDA_VISIBLE_DEVICES" if visible is None else f"export CUDA_VISIBLE_DEVICES='{visible}'")
    return lines


def _gpus(visible: str | None) -> list[str]:
    """Names of this machine's GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    if visible is not None:
        return [name for name in visible.split(",") if name]
    import torch  # noqa: PLC0415

    return [str(number) for number in range(torch.cuda.device_count())]
