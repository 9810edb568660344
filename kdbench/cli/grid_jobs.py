"""The jobs of a grid: stop them, and start failed cells as they were last started."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from kdbench.cli.options import echo
from kdbench.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kdbench.cli.grid_running import OpenGrid
    from kdbench.experiment.cell import Cell
    from kdbench.grid.overview import Overview
    from kdbench.grid.submissions import Submission, SubmittedJob
    from kdbench.slurm.profile import Profile


def cancel(opened: OpenGrid) -> None:
    """Stop the live jobs of a grid, and print those that are spared because others need them too.

    Raises
    ------
    UserError
        Some could not be stopped; all that could be are.
    """
    from kdbench.grid.states import State

    grid, overview = opened.grid, opened.overview
    ended = (State.DONE, State.FAILED)
    statuses = (*overview.statuses, *overview.teachers)
    unfinished = {status.cell.id for status in statuses if status.state not in ended}
    stopped, spared = [], []
    for submission, job in overview.live:
        cells = submission.served_by(job)
        if submission.is_of(grid) or (cells & unfinished and cells <= grid.cell_ids):
            stopped.append((submission, job))
        elif cells & unfinished:
            spared.append((submission, job))
    lines, problems = _stop(opened, stopped)
    lines += [_spared(submission, job) for submission, job in spared]
    lines += _strangers(overview)
    for line in lines:
        echo(line)
    if problems:
        raise UserError("; ".join(problems))
    if not lines:
        echo("nothing to cancel: no cell is queued or running")


def _stop(opened: OpenGrid, jobs: list[tuple[Submission, SubmittedJob]]) -> tuple[list[str], list[str]]:
    """Stop jobs; return what was done and what to type next, and why some could not be stopped."""
    from kdbench.grid.workers import stop_worker
    from kdbench.utils.text import counted

    lines, problems = [], []
    for submission, job in jobs:
        if submission.launcher == "local":
            try:
                lines.append(stop_worker(submission, job, opened.grid.session.scheduler))
            except UserError as error:
                problems.append(str(error))
    lines = [line for line in lines if line]
    if lines:
        lines.append(f"type {opened.command('run')} to resume the cells here")
    if job_ids := sorted({job.id for submission, job in jobs if submission.launcher == "slurm"}):
        from kdbench.slurm.scheduler import run_command

        if run_command("scancel", *job_ids) is None:
            problems.append("Slurm does not answer: no Slurm job was cancelled; type the same command again later")
        else:
            lines.append(f"cancelled {counted(len(job_ids), 'Slurm job')}")
            lines.append(f"type {opened.command('retry')} to submit the cancelled cells again")
    return lines, problems


def _spared(submission: Submission, job: SubmittedJob) -> str:
    """Describe a job that has cells of other grids as well, and how to stop it all the same."""
    from kdbench.utils.leases import holder_of

    owner = submission.file or submission.folder.parent.name
    held = holder_of(submission.folder / job.id)
    if submission.launcher == "slurm":
        name, how = f"Slurm job {job.id}", f"'scancel {job.id}'"
    elif held:
        name, how = job.id, f"'kill {held[1].pid}' on {held[1].host}"
    else:
        name, how = job.id, "this command again in a minute"
    return f"spared {name}, which has cells of {owner} that are not of this grid: type {how} to stop it"


def _strangers(overview: Overview) -> list[str]:
    """Describe processes that run cells of the grid but belong to no live job of a submission."""
    from kdbench.utils.leases import holder_of
    from kdbench.utils.text import counted

    workers = {
        (held[1].host, held[1].pid)
        for submission, job in overview.live
        if submission.launcher == "local" and (held := holder_of(submission.folder / job.id))
    }
    jobs = {job.id for _, job in overview.live}
    strangers: Counter[tuple[str, str]] = Counter()
    for status in (*overview.statuses, *overview.teachers):
        holder = status.holder
        if holder and (holder.host, holder.pid) not in workers and not (holder.job and holder.job.id in jobs):
            how = f"'scancel {holder.job.id}'" if holder.job else f"'kill {holder.pid}' on {holder.host}"
            strangers[str(holder), how] += 1
    return [
        f"spared {who}, which runs {counted(number, 'cell')} but was not started by a submission: type {how} to stop it"
        for (who, how), number in strangers.items()
    ]


def retry(opened: OpenGrid, profile: Profile | None, jobs: int | None) -> None:
    """Run failed and lost cells again.

    Parameters
    ----------
    profile, jobs
        Where they run; without either, each runs where it was last started.
    """
    from kdbench.cli.grid_running import start
    from kdbench.experiment.folder import FAILURE, RECORD
    from kdbench.grid.states import State
    from kdbench.grid.submissions import Launch

    overview = opened.overview
    again = [
        status for status in (*overview.statuses, *overview.teachers) if status.state in (State.FAILED, State.LOST)
    ]
    if not again:
        echo("nothing to retry: no cell has failed or is lost")
        return
    groups = _last_starts(overview, [status.cell for status in again], apart=not (profile or jobs))
    for status in again:
        (status.folder / FAILURE).unlink(missing_ok=True)
        if status.damage:
            record = status.folder / RECORD
            record.replace(record.with_name(f"damaged-{RECORD}"))
            echo(f"{status.damage}: kept as damaged-{RECORD}, and the cell runs again")
    for submission, cell_ids in groups:
        opened = opened.renewed()
        launch = submission.launch if submission else Launch()
        teachers = {status.cell.as_teacher.id for status in again if status.cell.id in cell_ids}
        cells = [
            status.cell
            for status in opened.overview.statuses
            if status.cell.id in cell_ids
            or (status.state == State.PLANNED and not teachers.isdisjoint(status.cell.teacher_ids))
        ]
        resources = profile
        if submission and submission.launcher == "slurm" and not (profile or jobs):
            from kdbench.slurm.profile import profile_from

            resources = profile_from(submission.profile)
        start(opened, cells, resources, replace(launch, jobs=jobs or launch.jobs), stay=True)


def _last_starts(overview: Overview, cells: Iterable[Cell], *, apart: bool) -> list[tuple[Submission | None, set[str]]]:
    """Group cells by how they were last started; those that ran on this machine are one group, the last.

    Parameters
    ----------
    apart
        Whether those of each profile and options of Slurm are a group of their own; if not, all are one group.

    Returns
    -------
    list
        The ids of each group's cells, and the last submission among theirs; None where none was submitted.
    """
    groups: dict[str, tuple[list[Submission], set[str]]] = {}
    for cell in cells:
        submission = overview.jobs[cell.id][0] if cell.id in overview.jobs else None
        on_slurm = submission is not None and submission.launcher == "slurm"
        key = repr((submission.profile, submission.launch)) if submission and on_slurm and apart else ""
        submissions, ids = groups.setdefault(key, ([], set()))
        submissions += [submission] if submission else []
        ids.add(cell.id)
    last = {
        key: max(members, key=lambda submission: submission.time, default=None) for key, (members, _) in groups.items()
    }
    return [(last[key], groups[key][1]) for key in sorted(groups, key=lambda key: not key)]
