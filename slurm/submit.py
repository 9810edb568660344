"""Submits a grid to Slurm: one array for each stage, each of whose tasks waits for its own teacher."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import submitit

from kdbench.errors import UserError
from kdbench.experiment.cell import Cell, by_teacher, lockstep_groups
from kdbench.grid.grid import Grid
from kdbench.grid.states import State
from kdbench.grid.worker import Workload
from kdbench.teachers.demand import Wanted

from .job import GridJob
from .profile import Profile, Resources, Stage
from .scheduler import Slurm, ask
from .submissions import Launch, Overview, Sent, Submission, freeze_code, new_folder

_SAVE_BEFORE = 120
"""Seconds before the time limit at which a job is told to save, where the limit leaves room for that."""
_FOREVER = 10**6


@dataclass(slots=True)
class Piece:
    """A job to be: its workload, the cells that it is there for, and the jobs that it waits for."""

    workload: Workload
    cells: tuple[Cell, ...]
    after_ok: list[str] = field(default_factory=list)
    after_any: list[str] = field(default_factory=list)

    @property
    def dependency(self) -> str:
        """In sbatch's notation."""
        return ",".join([f"afterok:{job}" for job in self.after_ok] + [f"afterany:{job}" for job in self.after_any])


@final
class Submitter:
    """Turns cells into jobs."""

    def __init__(self, grid: Grid, overview: Overview, profile: Profile, launch: Launch):
        self._grid, self._overview, self._profile, self._launch = grid, overview, profile, launch
        self._sent: list[Sent] = []
        self._waiting: list[str] = []
        self._folder = Path()
        self._setup: list[str] = []

    def submit(self, cells: Sequence[Cell], say: Callable[[str], None]) -> Submission:
        """Submit cells, with the training of teachers and the building of caches that they need.

        Raises
        ------
        UserError
            Slurm refuses, or a teacher can never come. Nothing of this submission is left in the queue.
        """
        scheduler = Slurm()
        if scheduler.cluster is None:
            raise UserError("Slurm does not answer here: 'scontrol show config' must work; --cluster local needs none")
        elsewhere = self._teachers_elsewhere()
        self._check_sizes(cells, scheduler.array_limit)
        self._folder = new_folder(self._grid, "slurm")
        self._setup = freeze_code(self._folder)
        try:
            trained = self._send("teacher", self._teacher_pieces(cells), say)
            teacher_jobs = elsewhere | {cell.as_teacher.id: job for job, piece in trained for cell in piece.cells}
            built = self._send("cache", self._cache_pieces(cells, teacher_jobs), say)
            cache_jobs = {piece.cells[0].teacher.id: job for job, piece in built if piece.cells[0].teacher}
            self._send("students", self._student_pieces(cells, teacher_jobs, cache_jobs), say)
            submission = self._write(scheduler.cluster)
            for job in self._waiting:
                _scontrol("release", job)
        except BaseException:
            for array in sorted({job.id.partition("_")[0] for job in self._sent}):
                ask("scancel", array)
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return submission

    def _write(self, cluster: str) -> Submission:
        submission = Submission(
            folder=self._folder,
            kind="slurm",
            cluster=cluster,
            profile=dataclasses.asdict(self._profile),
            launch=self._launch,
            jobs=tuple(self._sent),
        )
        submission.write()
        return submission

    def _teachers_elsewhere(self) -> dict[str, str]:
        """Jobs of earlier submissions that train teachers."""
        found = {}
        for status in self._overview.teachers:
            if status.state == State.QUEUED:
                found[status.cell.as_teacher.id] = self._overview.jobs[status.cell.id][1].id
            elif status.state == State.RUNNING:
                holder = status.holder
                if not (holder and holder.job):
                    raise UserError(f"{status.cell} is being trained by {holder}: submit when the teacher is there")
                found[status.cell.as_teacher.id] = holder.job.id
        return found

    def _teacher_pieces(self, cells: Sequence[Cell]) -> list[Piece]:
        needed = {cell.teacher.id for cell in cells if cell.teacher}
        return [
            Piece(self._workload(train=(status.cell,)), (status.cell,))
            for status in self._overview.teachers
            if status.cell.as_teacher.id in needed and status.state in (State.PLANNED, State.LOST, State.DONE)
        ]

    def _cache_pieces(self, cells: Sequence[Cell], teacher_jobs: dict[str, str]) -> list[Piece]:
        if self._launch.cache == "off":
            return []
        pieces = []
        for teacher, own in by_teacher([cell for cell in cells if cell.teacher]).items():
            if any(Wanted.by(cell).cacheable for cell in own):
                piece = Piece(self._workload(caches=tuple(own)), tuple(own))
                piece.after_ok += [teacher_jobs[teacher]] if teacher in teacher_jobs else []
                pieces.append(piece)
        return pieces

    def _student_pieces(
        self, cells: Sequence[Cell], teacher_jobs: dict[str, str], cache_jobs: dict[str, str]
    ) -> list[Piece]:
        pieces = []
        for own in self._cut(cells):
            piece = Piece(self._workload(cells=own), own)
            teacher = own[0].teacher.id if own[0].teacher else ""
            if teacher in teacher_jobs:
                piece.after_ok.append(teacher_jobs[teacher])
            if teacher in cache_jobs and any(Wanted.by(cell).cacheable for cell in own):
                piece.after_any.append(cache_jobs[teacher])
            pieces.append(piece)
        return pieces

    def _cut(self, cells: Sequence[Cell]) -> list[tuple[Cell, ...]]:
        """Cells of one job share the teacher, so that they wait for nothing else; those in lockstep stay together."""
        resources = self._profile.stages["students"]
        cut = []
        for own in by_teacher(cells).values():
            ordered = [cell for group in lockstep_groups(own, resources.together) for cell in group]
            size = resources.cells_per_job
            cut += [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]
        return cut

    def _workload(
        self, *, train: tuple[Cell, ...] = (), caches: tuple[Cell, ...] = (), cells: tuple[Cell, ...] = ()
    ) -> Workload:
        return Workload(
            session=self._launch.session(self._grid),
            train=train,
            caches=caches,
            cells=cells,
            cache=self._launch.cache,
            together=self._profile.stages["students"].together,
        )

    def _check_sizes(self, cells: Sequence[Cell], limit: int) -> None:
        jobs = len(self._cut(cells))
        if jobs > limit:
            resources = self._profile.stages["students"]
            least = -(-jobs * resources.cells_per_job // limit)
            raise UserError(
                f"these are {jobs} jobs, and this cluster takes arrays of at most {limit}: set cells_per_job = {least} "
                f"in {self._profile.path}"
            )

    def _send(self, stage: Stage, pieces: list[Piece], say: Callable[[str], None]) -> list[tuple[str, Piece]]:
        """Submit the jobs of a stage as one array, held until what each waits for is set."""
        if not pieces:
            return []
        resources = self._profile.stages[stage]
        held = any(piece.dependency for piece in pieces)
        executor = submitit.SlurmExecutor(self._folder, max_num_timeout=_FOREVER)
        executor.update_parameters(
            **_parameters(f"kdbench-{self._grid.file.name}-{stage}", resources, self._setup, held)
        )
        try:
            with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what it raises
                jobs = [executor.submit(GridJob(piece.workload)) for piece in pieces]
        except (subprocess.SubprocessError, submitit.core.utils.FailedJobError) as error:
            reason = "; ".join(line.removeprefix("sbatch: error: ") for line in str(error).splitlines())
            raise UserError(f"sbatch refuses the {stage} jobs of {self._profile.path}: {reason}") from None
        names = [job.job_id for job in jobs]
        self._sent += [
            Sent(name, stage, tuple(cell.id for cell in (*piece.workload.train, *piece.workload.cells)))
            for name, piece in zip(names, pieces, strict=True)
        ]
        if held:
            self._set_dependencies(names, pieces)
            self._waiting.append(names[0].partition("_")[0])
        bound = f", at most {resources.parallelism} at a time" if len(pieces) > resources.parallelism else ""
        say(f"{stage}: job {names[0].partition('_')[0]}, {len(pieces)} task{'s' if len(pieces) > 1 else ''}{bound}")
        return list(zip(names, pieces, strict=True))

    def _set_dependencies(self, names: list[str], pieces: list[Piece]) -> None:
        by_dependency: dict[str, list[str]] = {}
        for name, piece in zip(names, pieces, strict=True):
            by_dependency.setdefault(piece.dependency, []).append(name)
        for dependency, own in by_dependency.items():
            if dependency:
                _scontrol("update", f"JobId={_spelled(own)}", f"Dependency={dependency}")


def _spelled(names: list[str]) -> str:
    """Tasks of one array as Slurm spells them: ``12_[0-3,7]``."""
    array, _, first = names[0].partition("_")
    if not first:
        return array
    ranges: list[list[int]] = []
    for number in sorted(int(name.partition("_")[2]) for name in names):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return f"{array}_[{','.join(str(a) if a == b else f'{a}-{b}' for a, b in ranges)}]"


def _parameters(name: str, resources: Resources, setup: list[str], held: bool) -> dict[str, Any]:
    """What submitit calls the options of a profile."""
    further: dict[str, Any] = {"kill-on-invalid-dep": "yes", "requeue": True, **resources.sbatch}
    for key in ("partition", "account", "qos", "gres"):
        if value := getattr(resources, key):
            further[key] = value
    if held:
        further["hold"] = True
    if resources.memory:
        further["mem"] = resources.memory
    return {
        "job_name": re.sub(r"[^\w.-]", "_", name),
        "time": resources.minutes,
        "cpus_per_task": resources.cpus,
        "array_parallelism": resources.parallelism,
        "signal_delay_s": min(_SAVE_BEFORE, resources.minutes * 60 // 4),
        "setup": [f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{resources.cpus}}}", *resources.setup, *setup],
        "stderr_to_stdout": True,
        "srun_args": [f"--cpus-per-task={resources.cpus}"],  # a step does not inherit it since Slurm 22.05
        "additional_parameters": further,
    }


def _scontrol(*words: str) -> None:
    """Let Slurm change a job; it may be busy, so it is asked again."""
    for pause in (0.5, 2.0, 5.0, None):
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
        if done.returncode == 0:
            return
        if pause is not None:
            time.sleep(pause)
    raise UserError(f"Slurm refuses 'scontrol {' '.join(words)}': {done.stderr.strip()}; nothing is left in the queue")
