"""Combine what run folders, submissions and the batch system say into the states of a grid's cells."""

from __future__ import annotations

import getpass
from dataclasses import dataclass, replace

from kdbench.experiment.cell import Cell
from kdbench.grid.grid import Grid
from kdbench.grid.states import State, Status, survey
from kdbench.grid.submissions import Submission, SubmittedJob, is_held, read_submissions
from kdbench.utils.scheduler import JobState, Scheduler


@dataclass(frozen=True, slots=True)
class Overview:
    """The states of a grid's cells, and of those that train its teachers."""

    statuses: list[Status]
    teachers: list[Status]
    jobs: dict[str, tuple[Submission, SubmittedJob]]
    """The last job of each cell, by the cell's id."""
    problem: str
    """Why the batch system could not be asked; empty where it answered or need not."""

    def count(self, state: State) -> int:
        """Count the cells in a state."""
        return sum(status.state == state for status in self.statuses)

    def cells_in(self, *states: State) -> list[Cell]:
        """Return the cells in some states."""
        return [status.cell for status in self.statuses if status.state in states]

    def launcher(self, cell: Cell) -> str:
        """Return the launcher of a cell's last job; empty where it was never submitted."""
        return self.jobs[cell.id][0].launcher if cell.id in self.jobs else ""


def read_overview(grid: Grid, scheduler: Scheduler) -> Overview:
    """Find the state of every cell of a grid.

    Raises
    ------
    UserError
        A submission's manifest is damaged.
    """
    cell_ids = {cell.id for cell in (*grid.to_train, *grid.cells)}
    last: dict[str, tuple[Submission, SubmittedJob]] = {}
    for submission in read_submissions(grid):
        for job in submission.jobs:
            last |= {cell: (submission, job) for cell in job.cells if cell in cell_ids}
    on_slurm = any(submission.launcher == "slurm" for submission, _ in last.values())
    job_states = scheduler.jobs([getpass.getuser()]) if on_slurm else {}
    problem = ""
    if job_states is None:
        problem = (
            "Slurm does not answer: cells of jobs that have ended are shown as queued; type the command again later"
        )
    by_job = {(submission.folder, job.id): (submission, job) for submission, job in last.values()}
    job_texts = {key: _job_text(*submitted, job_states, scheduler) for key, submitted in by_job.items()}
    texts = {cell: job_texts[submission.folder, job.id] for cell, (submission, job) in last.items()}
    queued = {cell: text for cell, (waiting, text) in texts.items() if waiting}
    # Cells that workers on this machine left are planned; a Slurm job that has ended should have run its cells.
    gone = {cell: text for cell, (waiting, text) in texts.items() if not waiting and last[cell][0].launcher == "slurm"}
    runs = grid.session.runs
    statuses = survey(grid.cells, runs, scheduler, queued, gone)
    teachers = survey(grid.to_train, runs, scheduler, queued, gone)
    forgotten = {
        last[status.cell.id][1].id
        for status in (*statuses, *teachers)
        if status.state == State.LOST
        and status.cell.id in last
        and last[status.cell.id][0].launcher == "slurm"
        and last[status.cell.id][1].id not in (job_states or {})
    }
    ended = scheduler.ended(forgotten)

    def explained(status: Status) -> Status:
        if status.state != State.LOST or status.cell.id not in last:
            return status
        submission, job = last[status.cell.id]
        if submission.launcher == "local":
            return replace(status, job=f"stopped before it was finished; logs: {submission.folder}")
        how = f" ({ended[job.id]})" if job.id in ended else ""
        log = f"; log: {submission.log(job)}" if submission.log(job).exists() else ""
        return replace(status, job=f"{status.job}{how}{log}")

    return Overview(list(map(explained, statuses)), list(map(explained, teachers)), last, problem)


def _job_text(
    submission: Submission, job: SubmittedJob, job_states: dict[str, JobState] | None, scheduler: Scheduler
) -> tuple[bool, str]:
    """Return whether a job may still run its cells, and a description of it.

    Parameters
    ----------
    job_states
        None where Slurm does not answer: a job may then be running, and is not submitted a second time.
    """
    if submission.launcher == "local":
        return is_held(submission.folder / job.id, scheduler), "waiting for a worker"
    if job_states is None:
        return True, f"job {job.id}"
    if job.id not in job_states:
        return False, f"job {job.id} has ended"
    return not job_states[job.id].over, f"job {job.id} {job_states[job.id]}"
