"""Run grids with workers on this machine and their progress on the screen, or hand them to Slurm."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kdbench.cli.options import console, echo, next_command
from kdbench.cli.running import find_scheduler, print_unused, warn_of_changes
from kdbench.errors import Interrupted, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kdbench.experiment.cell import Cell
    from kdbench.grid.grid import Grid
    from kdbench.grid.overview import Overview
    from kdbench.grid.states import Status
    from kdbench.grid.submissions import Launch
    from kdbench.grid.workers import Workers
    from kdbench.search.slots import Slot
    from kdbench.slurm.profile import Profile
    from kdbench.utils.signals import Stop

_POLL_SECONDS = 1.0
"""Seconds between two looks at the cells."""
_FOLLOW_SECONDS = 5.0
"""Seconds between two updates of ``status --watch``."""
_CRASHES_PER_WORKER = 12
"""Crashes of workers before any cell is finished in between; a cell that crashes them on its own fails earlier."""


@dataclass(frozen=True)
class OpenGrid:
    """A grid, the states of its cells, and the command that opened it."""

    context: typer.Context
    grid: Grid
    overview: Overview

    def command(self, verb: str, *flags: str) -> str:
        """Spell a command of ``kdbench grid`` to type next, in quotes, with the --runs and --data that were given."""
        return next_command(self.context, "grid", verb, self.grid.file.path, *flags, keep=("runs", "data"))

    def table_command(self) -> str:
        """Spell the command that compares the finished cells, in quotes."""
        return next_command(self.context, "table", self.grid.session.runs)

    def renewed(self) -> OpenGrid:
        """Return the grid with the states that its cells have now."""
        from kdbench.grid.overview import read_overview

        self.grid.refresh()
        return replace(self, overview=read_overview(self.grid, self.grid.session.scheduler))

    def slots_to_run(self, *, slurm: bool) -> list[Slot]:
        """Return the cells of a search that are not known yet, as :func:`cells_to_run` does of those that are."""
        skipped = {key for key, launcher in self.overview.taken.items() if slurm or launcher == "slurm"}
        return [slot for slot in self.grid.waiting if slot.key not in skipped]

    def print_counts(self, statuses: Sequence[Status]) -> None:
        """Print how many cells of each pair and method, and of each stage of a search, are in which state."""
        from kdbench.cli.grid_view import counts, search_counts

        console().print(counts(self.grid, statuses, console().width))
        if self.grid.search.studies:
            console().print(search_counts(self.grid, statuses))


def open_grid(
    context: typer.Context,
    file: Path,
    runs: Path,
    data: str | None,
    *,
    download: bool = False,
    device: str | None = None,
    looks: bool = False,
) -> OpenGrid:
    """Read a grid's file and find the states of its cells.

    Parameters
    ----------
    looks
        Whether the command only looks, and neither starts nor stops anything.

    Raises
    ------
    UserError
        A submission of the grid cannot be read, so that its jobs are not known, and the command does more than look.
    """
    from kdbench.grid.grid import Grid
    from kdbench.grid.overview import read_overview
    from kdbench.grid.states import State
    from kdbench.grid.submissions import folder_of

    scheduler = find_scheduler()
    grid = Grid.open(file, runs=runs, data=data, download=download, device=device, scheduler=scheduler)
    overview = read_overview(grid, scheduler)
    for folder, damage in overview.damages.items():
        if folder.parent == folder_of(grid) and not looks:
            raise UserError(damage)
        echo(f"left out: {damage}")
    warn_of_changes(grid.session, overview.cells_in(State.DONE))
    return OpenGrid(context, grid, overview)


def cells_to_run(opened: OpenGrid, *, slurm: bool = False) -> list[Cell]:
    """Return the cells that are not done, failed or on Slurm, and print which are skipped.

    Parameters
    ----------
    slurm
        Whether they will be submitted to Slurm: cells of other live processes are then skipped as well.
    """
    from kdbench.grid.states import State
    from kdbench.utils.text import counted

    overview = opened.overview
    cells, num_elsewhere, num_orphans = [], 0, 0
    failed_teachers = {status.cell.as_teacher.id for status in overview.teachers if status.state == State.FAILED}
    for status in overview.statuses:
        if status.state in (State.PLANNED, State.LOST):
            orphan = not failed_teachers.isdisjoint(status.cell.teacher_ids)
            num_orphans += orphan
            cells += [] if orphan else [status.cell]
        elif status.state in (State.QUEUED, State.RUNNING):
            here = not overview.on_slurm(status)
            cells += [status.cell] if here and not slurm else []
            num_elsewhere += slurm or not here
    if num_elsewhere:
        cancel = opened.command("cancel")
        echo(f"skipped {counted(num_elsewhere, 'cell')}, queued or running already: type {cancel} to cancel them")
    retry = opened.command("retry")
    if num_orphans:
        echo(f"skipped {counted(num_orphans, 'cell')} whose teacher failed: type {retry} to train it again")
    if num_failed := overview.count(State.FAILED):
        echo(f"skipped {counted(num_failed, 'cell')} that failed before: type {retry} to run them again")
    return cells


def start(opened: OpenGrid, cells: Sequence[Cell], profile: Profile | None, launch: Launch, *, stay: bool) -> None:
    """Submit cells to Slurm where a profile is given, else start workers on this machine.

    Parameters
    ----------
    stay
        Whether to watch workers on this machine until all cells are done.
    """
    from kdbench.cli.grid_view import headline
    from kdbench.data.groups import check_devices
    from kdbench.grid.leftovers import tidy_grid
    from kdbench.grid.workers import Workers
    from kdbench.utils.leases import Leases
    from kdbench.utils.signals import Stop
    from kdbench.utils.text import counted

    grid, statuses = opened.grid, opened.overview.statuses
    slots = opened.slots_to_run(slurm=profile is not None)
    tidy_grid(grid, opened.overview)
    grid.search.write()
    if not cells and not slots:
        console().print(headline(grid, statuses))
        opened.print_counts(statuses)
        _conclude(opened, statuses)
        return
    check_devices(grid.session.protocol.rules.schedule, launch.devices)
    print_unused(grid.session)
    _ = grid.session.dataset  # a missing data set is reported here, not by every cell
    if profile:
        from kdbench.slurm.submit import Submitter

        submission = Submitter(grid, opened.overview, profile, launch).submit(cells, slots, echo)
        number, watch = counted(len(cells) + len(slots), "cell"), opened.command("status", "--watch")
        echo(f"submitted {number}: type {watch} to follow them")
        echo(f"logs: {submission.folder}")
        return
    with Stop() as stop, Leases(grid.session.scheduler) as leases:
        workers = Workers(grid, cells, slots, launch, leases)
        if not stay:
            workers.wait_until_up()
            watch = opened.command("status", "--watch")
            echo(f"started {counted(launch.jobs, 'worker')} in the background: type {watch} to follow the cells")
            echo(f"logs: {workers.submission.folder}")
            return
        statuses = _watch(opened, workers, launch.jobs, stop)
        workers.clean_up()
    opened.print_counts(statuses)
    _conclude(opened, statuses, workers.submission.folder)


def _watch(opened: OpenGrid, workers: Workers, jobs: int, stop: Stop) -> list[Status]:
    """Show what workers do until nothing is left, replacing those that crash; return the last states."""
    from rich.live import Live

    from kdbench.cli.grid_view import lines, live_view
    from kdbench.grid.states import State, survey
    from kdbench.utils.text import clock

    grid, scheduler = opened.grid, find_scheduler()
    runs, ended = grid.session.runs, (State.DONE, State.FAILED)
    latest = {status.cell.id: status for status in opened.overview.statuses}
    crashes, started = 0, time.monotonic()
    num_open_before = sum(status.state not in ended for status in opened.overview.statuses) + len(grid.waiting)
    with Live(console=console(), refresh_per_second=2, transient=True) as live:
        while True:
            over = all(workers.ended(number) for number in range(jobs))
            unfinished = [status.cell for status in latest.values() if status.state not in ended]
            for status in survey([*unfinished, *grid.refresh()], runs, scheduler, {}, {}):
                if status.state in ended:
                    crashes = 0
                    for line in lines([status], [status.state]):
                        console().print(line)
                latest[status.cell.id] = status
            statuses = list(latest.values())
            num_open = sum(status.state not in ended for status in statuses) + len(grid.waiting)
            if console().is_terminal:
                num_ended, elapsed = num_open_before - num_open, time.monotonic() - started
                left = f", about {clock(elapsed / num_ended * num_open)} left" if num_ended and num_open else ""
                teachers = survey(grid.to_train, runs, scheduler, {}, {})
                live.update(live_view(grid, statuses, teachers, console().width, f"{clock(elapsed)}{left}"))
            if stop.signum is not None:
                echo("stopping: the running cells are being saved")
                workers.stop()
                raise Interrupted("the running cells are saved: type the same command to resume", stop.signum)
            if over:
                return statuses
            for number in range(jobs):
                if not workers.ended(number) and not workers.alive(number) and not workers.ended(number):
                    crashes += 1
                    echo(f"worker {number + 1} crashed: a new one resumes its cells")
                    if crashes > _CRASHES_PER_WORKER * jobs:
                        workers.stop()
                        raise UserError(
                            f"workers crashed {crashes} times before another cell was finished: read their logs in "
                            f"{workers.submission.folder}, then type the same command to resume"
                        )
                    workers.start(number)
            time.sleep(_POLL_SECONDS)


def _conclude(opened: OpenGrid, statuses: Sequence[Status], logs: Path | None = None) -> None:
    """Print that nothing is left to run here, or raise an error that counts the cells that are not done.

    Parameters
    ----------
    logs
        Folder of the workers that have just ended; None where there was nothing to start.
    """
    from kdbench.grid.states import State
    from kdbench.utils.text import counted

    trials = opened.grid.search.trial_ids
    trials_failed = sum(
        status.state == State.FAILED and status.cell.id in trials and not status.damage for status in statuses
    )
    if trials_failed:
        echo(f"{counted(trials_failed, 'trial')} failed and so ranked last: type {opened.command('status')} to see why")
    counts = Counter(status.state for status in statuses)
    counts[State.FAILED] -= trials_failed
    elsewhere = 0 if logs else counts[State.QUEUED] + counts[State.RUNNING]
    failed = counts[State.FAILED]
    left = counts.total() + (len(opened.grid.waiting) if logs else 0) - counts[State.DONE] - failed - elsewhere
    if failed or left:
        parts = ([f"{failed} failed"] if failed else []) + ([f"{left} not finished"] if left else [])
        raise UserError(
            f"{' and '.join(parts)} of {counted(len(statuses), 'cell')}: type {opened.command('status')} to see why, "
            f"{opened.command('retry')} to run them again{f'; logs: {logs}' if logs else ''}"
        )
    if elsewhere:
        echo(f"nothing is left to run here: type {opened.command('status', '--watch')} to follow the cells")
    else:
        verdict = "all done" if logs else "nothing is left to run"
        echo(f"{verdict}: type {opened.table_command()} to compare the cells")


def follow(opened: OpenGrid) -> OpenGrid:
    """Show the states of a grid's cells until none is queued, running or planned."""
    from rich.live import Live

    from kdbench.cli.grid_view import live_view
    from kdbench.grid.states import State

    grid = opened.grid
    with Live(console=console()) as live:
        while True:
            overview = opened.overview
            live.update(live_view(grid, overview.statuses, overview.teachers, console().width, overview.problem))
            if not overview.cells_in(State.PLANNED, State.RUNNING, State.QUEUED):
                return opened
            time.sleep(_FOLLOW_SECONDS)
            opened = opened.renewed()
