"""Submit a grid to Slurm: one array for each stage, each of whose tasks waits for its own teacher."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import final

import submitit

from kdbench.data.groups import check_devices
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell, by_teacher, lockstep_groups
from kdbench.grid.code_copy import copy_code
from kdbench.grid.grid import Grid
from kdbench.grid.job import GridJob
from kdbench.grid.overview import Overview
from kdbench.grid.states import State
from kdbench.grid.submissions import Launch, Submission, SubmittedJob, new_folder
from kdbench.grid.worker import Workload
from kdbench.search.slots import Slot, stage_place
from kdbench.teachers.demand import Wanted
from kdbench.utils.leases import Leases
from kdbench.utils.text import counted

from .arrays import Piece, change_job, parameters, set_dependencies
from .profile import TRAINING, Profile, Stage
from .scheduler import Slurm, run_command

_MAX_RESTARTS = 10**6


@final
class Submitter:
    """Cut cells into jobs and submit them."""

    def __init__(self, grid: Grid, overview: Overview, profile: Profile, launch: Launch):
        self._grid, self._overview, self._profile, self._launch = grid, overview, profile, launch
        self._submitted: list[SubmittedJob] = []
        self._held: list[str] = []
        self._folder = Path()
        self._setup: list[str] = []

    def submit(self, cells: Sequence[Cell], slots: Sequence[Slot], report: Callable[[str], None]) -> Submission:
        """Submit cells, with the training of teachers and the building of caches that they need.

        Parameters
        ----------
        slots
            Cells of a search that are known later: each stage is an array that waits for the one before.
        report
            Called with a line about each stage.

        Raises
        ------
        UserError
            Slurm does not accept a job, or a teacher can never exist. Nothing of this submission is left in the queue.
        """
        scheduler = Slurm()
        if scheduler.cluster is None:
            raise UserError(
                "Slurm does not answer: 'scontrol show config' must work here; --cluster local needs no Slurm"
            )
        for stage in TRAINING:
            devices = self._profile.stages[stage].devices_per_cell
            check_devices(self._grid.session.protocol.rules.schedule, devices, "devices_per_cell =")
        teacher_jobs = self._teachers_in_training()
        for several in (cells, *([slot.stand_in for slot in stage] for stage in _by_stage(slots).values())):
            self._check_array_size(several, scheduler.array_limit)
        self._folder = new_folder(self._grid, "slurm")
        with Leases(scheduler) as leases:  # until it has a manifest, nobody takes the folder for a left-over
            leases.hold(self._folder)
            return self._submit(cells, slots, teacher_jobs, scheduler.cluster, report)

    def _submit(
        self,
        cells: Sequence[Cell],
        slots: Sequence[Slot],
        teacher_jobs: dict[str, str],
        cluster: str,
        report: Callable[[str], None],
    ) -> Submission:
        self._setup = copy_code(self._folder)
        try:
            # The manifest is written after each stage: 'grid cancel' then finds its jobs whatever happens here.
            needed = [*cells, *(slot.stand_in for slot in slots)]
            trained = self._send("teacher", self._teacher_pieces(needed), report)
            self._write(cluster)
            teacher_jobs |= {cell.as_teacher.id: job for job, piece in trained for cell in piece.cells}
            built = self._send("cache", self._cache_pieces(needed, teacher_jobs), report)
            self._write(cluster)
            cache_jobs = {piece.cells[0].teacher.id: job for job, piece in built if piece.cells[0].teacher}
            trials = self._grid.search.trial_ids
            searched = [cell for cell in cells if cell.id in trials]
            others = [cell for cell in cells if cell.id not in trials]
            sent = self._send("students", self._student_pieces(searched, teacher_jobs, cache_jobs), report, "trials")
            self._send("students", self._student_pieces(others, teacher_jobs, cache_jobs), report)
            for stage, waiting in _by_stage(slots).items():
                self._write(cluster)
                before = [job for job, _ in sent] or [
                    job.id for submission, job in self._overview.live if submission.launcher == "slurm"
                ]
                pieces = self._slot_pieces(waiting, before, teacher_jobs, cache_jobs)
                sent = self._send("students", pieces, report, stage)
            submission = self._write(cluster)
            for job in self._held:
                change_job("release", job)
        except BaseException:
            for array in sorted({job.id.partition("_")[0] for job in self._submitted}):
                run_command("scancel", array)
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return submission

    def _write(self, cluster: str) -> Submission:
        submission = Submission(
            folder=self._folder,
            launcher="slurm",
            cluster=cluster,
            profile=self._profile.values(),
            launch=self._launch,
            jobs=tuple(self._submitted),
            file=str(self._grid.file.path.absolute()),
        )
        submission.write()
        return submission

    def _teachers_in_training(self) -> dict[str, str]:
        """Return the jobs of earlier submissions that train teachers, by the teacher's id."""
        jobs = {}
        for status in self._overview.teachers:
            if status.state == State.QUEUED:
                jobs[status.cell.as_teacher.id] = self._overview.jobs[status.cell.id][1].id
            elif status.state == State.RUNNING:
                holder = status.holder
                if not (holder and holder.job):
                    raise UserError(f"teacher {status.cell} is being trained by {holder}: submit when it is finished")
                jobs[status.cell.as_teacher.id] = holder.job.id
        return jobs

    def _teacher_pieces(self, cells: Sequence[Cell]) -> list[Piece]:
        needed = {teacher for cell in cells for teacher in cell.teacher_ids}
        return [
            Piece(self._workload(train=(status.cell,)), (status.cell,))
            for status in self._overview.teachers
            if status.cell.as_teacher.id in needed and status.state in (State.PLANNED, State.LOST, State.DONE)
        ]

    def _cache_pieces(self, cells: Sequence[Cell], teacher_jobs: dict[str, str]) -> list[Piece]:
        if self._launch.cache == "off":
            return []
        pieces = []
        for group in by_teacher([cell for cell in cells if cell.teacher]).values():
            if any(Wanted.by(cell).cacheable for cell in group):
                piece = Piece(self._workload(caches=tuple(group)), tuple(group))
                piece.after_ok += _jobs_of(group[0], teacher_jobs)
                pieces.append(piece)
        return pieces

    def _student_pieces(
        self, cells: Sequence[Cell], teacher_jobs: dict[str, str], cache_jobs: dict[str, str]
    ) -> list[Piece]:
        pieces = []
        for group in self._cut(cells):
            piece = Piece(self._workload(cells=group), group)
            teacher = group[0].teacher.id if group[0].teacher else ""
            piece.after_ok += _jobs_of(group[0], teacher_jobs)
            if teacher in cache_jobs and any(Wanted.by(cell).cacheable for cell in group):
                piece.after_any.append(cache_jobs[teacher])
            pieces.append(piece)
        return pieces

    def _slot_pieces(
        self,
        slots: Sequence[Slot],
        before: Sequence[str],
        teacher_jobs: dict[str, str],
        cache_jobs: dict[str, str],
    ) -> list[Piece]:
        """Cut the slots of a stage into jobs that wait for all jobs of the stage before, however those end."""
        by_id: dict[str, list[Slot]] = {}
        for slot in slots:
            by_id.setdefault(slot.stand_in.id, []).append(slot)
        pieces = self._student_pieces([slot.stand_in for slot in slots], teacher_jobs, cache_jobs)
        for piece in pieces:
            piece.workload = self._workload(slots=tuple(slot for cell in piece.cells for slot in by_id[cell.id]))
            piece.cells = ()
            piece.after_any += dict.fromkeys(job.partition("_")[0] for job in before)
        return pieces

    def _cut(self, cells: Sequence[Cell]) -> list[tuple[Cell, ...]]:
        """Cut cells into jobs: those of a job share the teacher, and lockstep groups are kept whole where they fit."""
        resources = self._profile.stages["students"]
        jobs = []
        for group in by_teacher(cells).values():
            ordered = [cell for lockstep in lockstep_groups(group, resources.lockstep) for cell in lockstep]
            size = resources.cells_per_job
            jobs += [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]
        return jobs

    def _workload(
        self,
        *,
        train: tuple[Cell, ...] = (),
        caches: tuple[Cell, ...] = (),
        cells: tuple[Cell, ...] = (),
        slots: tuple[Slot, ...] = (),
    ) -> Workload:
        return Workload(
            session=self._launch.session(self._grid) | {"devices": self._devices("teacher" if train else "students")},
            train=train,
            caches=caches,
            cells=cells,
            slots=slots,
            cache=self._launch.cache,
            lockstep=self._profile.stages["students"].lockstep,
        )

    def _devices(self, stage: Stage) -> int:
        return self._profile.stages[stage].devices_per_cell if stage in TRAINING else 1

    def _check_array_size(self, cells: Sequence[Cell], limit: int) -> None:
        jobs = len(self._cut(cells))
        if jobs > limit:
            resources = self._profile.stages["students"]
            least = -(-jobs * resources.cells_per_job // limit)
            raise UserError(
                f"{jobs:,} jobs are more than this cluster's arrays may have ({limit:,}): "
                f"set cells_per_job = {least} in {self._profile.path}"
            )

    def _send(
        self, stage: Stage, pieces: list[Piece], report: Callable[[str], None], name: str = ""
    ) -> list[tuple[str, Piece]]:
        """Submit the jobs of a stage as one array, held until the dependencies of each are set."""
        if not pieces:
            return []
        resources = self._profile.stages[stage]
        held = any(piece.dependency for piece in pieces)
        executor = submitit.SlurmExecutor(self._folder, max_num_timeout=_MAX_RESTARTS)
        executor.update_parameters(
            **parameters(
                f"kdbench-{self._grid.file.name}-{name or stage}",
                resources,
                self._devices(stage),
                self._setup,
                held,
                comment=f"logs: {self._folder}; states: {self._grid.session.runs.absolute()}",
            )
        )
        try:
            with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what it raises
                jobs = [executor.submit(GridJob(piece.workload, Slurm)) for piece in pieces]
        except (subprocess.SubprocessError, submitit.core.utils.FailedJobError) as error:
            reason = "; ".join(line.removeprefix("sbatch: error: ") for line in str(error).splitlines())
            raise UserError(f"sbatch does not accept the {stage} jobs of {self._profile.path}: {reason}") from None
        job_ids = [job.job_id for job in jobs]
        self._submitted += [
            SubmittedJob(
                job_id,
                name or stage,
                tuple(cell.id for cell in (*piece.workload.train, *piece.workload.cells)),
                tuple(slot.key for slot in piece.workload.slots),
            )
            for job_id, piece in zip(job_ids, pieces, strict=True)
        ]
        array = job_ids[0].partition("_")[0]
        if held:
            set_dependencies(job_ids, [piece.dependency for piece in pieces])
            self._held.append(array)
        bound = f", at most {resources.parallelism} at a time" if len(pieces) > resources.parallelism else ""
        report(f"{name or stage}: job {array}, {counted(len(pieces), 'task')}{bound}")
        return list(zip(job_ids, pieces, strict=True))


def _by_stage(slots: Sequence[Slot]) -> dict[str, list[Slot]]:
    stages: dict[str, list[Slot]] = {}
    for slot in slots:
        stages.setdefault(slot.stage, []).append(slot)
    return {name: stages[name] for name in sorted(stages, key=stage_place)}


def _jobs_of(cell: Cell, teacher_jobs: Mapping[str, str]) -> list[str]:
    """Return the jobs that train a cell's teacher, or the members of it."""
    return list(dict.fromkeys(teacher_jobs[teacher] for teacher in cell.teacher_ids if teacher in teacher_jobs))
