"""Combine what run folders, submissions and the batch system say into the states of a grid's cells."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kdbench.experiment.cell import Cell
from kdbench.grid.grid import Grid
from kdbench.grid.states import State, Status, survey
from kdbench.grid.submissions import Launcher, Submission, SubmittedJob, is_held, read_submissions
from kdbench.utils.scheduler import JobState, Scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The states of a grid's cells, and of those that train its teachers."""

    statuses: list[Status]
    teachers: list[Status]
    jobs: dict[str, tuple[Submission, SubmittedJob]]
    """The last job of each cell that is live, else its last one, by the cell's id."""
    live: list[tuple[Submission, SubmittedJob]]
    """Jobs of all submissions that may still run cells of this grid, or that its file had when it was submitted."""
    over: list[Submission]
    """Submissions that have cells of this grid, or had some, and surely no job that may run."""
    taken: Mapping[str, Launcher]
    """Who started the live job that has a slot of a search, by the slot's key."""
    damages: dict[Path, str]
    """The folders of submissions under the grid's protocol that cannot be read, each with the reason."""
    problem: str
    """Why the batch system could not be asked; empty where it answered or need not."""

    def count(self, state: State) -> int:
        """Count the cells in a state."""
        return sum(status.state == state for status in self.statuses)

    def cells_in(self, *states: State) -> list[Cell]:
        """Return the cells in some states."""
        return [status.cell for status in self.statuses if status.state in states]

    def on_slurm(self, status: Status) -> bool:
        """Return whether a job of Slurm runs a cell, or will."""
        if status.holder:
            return status.holder.job is not None
        return status.cell.id in self.jobs and self.jobs[status.cell.id][0].launcher == "slurm"


def read_overview(grid: Grid, scheduler: Scheduler) -> Overview:
    """Find the state of every cell of a grid."""
    submissions, damages = read_submissions(grid)
    submitted = [
        (submission, job)
        for submission in submissions
        for job in submission.jobs
        if submission.is_of(grid) or not grid.cell_ids.isdisjoint(submission.served_by(job))
    ]
    on_slurm = any(submission.launcher == "slurm" for submission, _ in submitted)
    job_states = scheduler.jobs([getpass.getuser()]) if on_slurm else {}
    filled = {key: cell.id for key, cell in grid.search.known.items()}
    looks = [_look(*pair, job_states, scheduler) for pair in submitted]
    jobs: dict[str, tuple[Submission, SubmittedJob]] = {}
    texts: dict[str, tuple[bool, str]] = {}
    for lives in (False, True):
        for pair, look in zip(submitted, looks, strict=True):
            if look.lives == lives:
                cells = grid.cell_ids.intersection([*pair[1].cells, *(filled.get(key, "") for key in pair[1].slots)])
                jobs |= dict.fromkeys(cells, pair)
                texts |= dict.fromkeys(cells, (look.may_run, look.text))
    queued = {cell: text for cell, (may_run, text) in texts.items() if may_run}
    # Cells that workers on this machine left are planned; a Slurm job that has ended should have run its cells.
    gone = {cell: text for cell, (may_run, text) in texts.items() if not may_run and jobs[cell][0].launcher == "slurm"}
    runs = grid.session.runs
    statuses = survey(grid.cells, runs, scheduler, queued, gone)
    teachers = survey(grid.to_train, runs, scheduler, queued, gone)
    forgotten = {
        jobs[status.cell.id][1].id
        for status in (*statuses, *teachers)
        if status.state == State.LOST
        and status.cell.id in jobs
        and jobs[status.cell.id][0].launcher == "slurm"
        and jobs[status.cell.id][1].id not in (job_states or {})
    }
    ended = scheduler.ended(forgotten)

    def explained(status: Status) -> Status:
        if status.state not in (State.LOST, State.RUNNING) or status.cell.id not in jobs:
            return status
        submission, job = jobs[status.cell.id]
        if status.state == State.RUNNING:
            runs_it = status.holder and status.holder.job and status.holder.job.id == job.id
            return replace(status, job=f"log: {submission.log(job)}") if runs_it else status
        if submission.launcher == "local":
            return replace(status, job=f"stopped before it was finished; logs: {submission.folder}")
        how = f" ({ended[job.id]})" if job.id in ended else ""
        log = f"; log: {submission.log(job)}" if submission.log(job).exists() else ""
        return replace(status, job=f"{status.job}{how}{log}")

    # Of jobs that Slurm says nothing about, those that have a cell that nothing else is known of.
    waiting = {status.cell.id for status in (*statuses, *teachers) if status.state == State.QUEUED}
    unknown = [
        pair
        for pair, look in zip(submitted, looks, strict=True)
        if look.may_run and not look.lives and any(jobs[cell] is pair for cell in waiting.intersection(pair[1].cells))
    ]
    live = [pair for pair, look in zip(submitted, looks, strict=True) if look.lives]
    problem = (
        "Slurm does not answer: cells of jobs that have ended are shown as queued; type the command again later"
        if unknown
        else ""
    )
    going = {submission.folder for (submission, _), look in zip(submitted, looks, strict=True) if look.may_run}
    over = {submission.folder: submission for submission, _ in submitted if submission.folder not in going}
    return Overview(
        statuses=list(map(explained, statuses)),
        teachers=list(map(explained, teachers)),
        jobs=jobs,
        live=[*live, *unknown],
        over=[submission for submission in over.values() if not is_held(submission.folder, scheduler)],
        taken={
            key: submission.launcher
            for (submission, job), look in zip(submitted, looks, strict=True)
            if look.may_run
            for key in job.slots
        },
        damages=damages,
        problem=problem,
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """What is known of a job."""

    lives: bool
    """Whether it surely runs its cells, or will."""
    may_run: bool
    """Whether it may: where Slurm does not answer, a job is not submitted a second time."""
    text: str


def _look(
    submission: Submission, job: SubmittedJob, job_states: dict[str, JobState] | None, scheduler: Scheduler
) -> _Look:
    """Look at a job.

    Parameters
    ----------
    job_states
        None where Slurm does not answer.
    """
    if submission.launcher == "local":
        lives = is_held(submission.folder / job.id, scheduler) or submission.starts(job, scheduler)
        return _Look(lives, lives, "waiting for a worker")
    if job_states is None:
        return _Look(lives=False, may_run=True, text=f"job {job.id}")
    if job.id not in job_states:
        return _Look(lives=False, may_run=False, text=f"job {job.id} has ended")
    lives = not job_states[job.id].over
    return _Look(lives, lives, f"job {job.id} {job_states[job.id]}")
