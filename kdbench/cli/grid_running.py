"""Grids that are run here, with what is happening on the screen, or handed to Slurm."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.cli.options import console
from kdbench.cli.running import warn_of_changes
from kdbench.errors import Interrupted, UserError
from kdbench.utils.signals import Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kdbench.experiment.cell import Cell
    from kdbench.grid.estimate import GridEstimate
    from kdbench.grid.grid import Grid
    from kdbench.grid.states import Status
    from kdbench.slurm.local import Workers
    from kdbench.slurm.profile import Profile
    from kdbench.slurm.submissions import Launch, Overview

_LOOK_EVERY = 1.0
"""Seconds between two looks at the cells."""
_DEATHS_PER_WORKER = 12
"""Workers may die so often without anything being finished in between; a cell alone that kills them fails before."""


def print_counts(grid: Grid, statuses: Sequence[Status]) -> None:
    """Print how many cells of each pair and method are in which state."""
    from kdbench.cli.grid_view import counts  # noqa: PLC0415

    console.print(counts(grid, statuses, console.width))


def opened(
    file: Path, runs: Path, data: str | None, *, download: bool = False, device: str | None = None
) -> tuple[Grid, Overview]:
    """Read a grid's file and look at its cells."""
    from kdbench.grid.grid import Grid  # noqa: PLC0415
    from kdbench.grid.states import State  # noqa: PLC0415
    from kdbench.slurm.scheduler import Slurm  # noqa: PLC0415
    from kdbench.slurm.submissions import look  # noqa: PLC0415

    scheduler = Slurm()
    grid = Grid.open(file, runs=runs, data=data, download=download, device=device, scheduler=scheduler)
    overview = look(grid, scheduler)
    warn_of_changes(grid.session, overview.of(State.DONE))
    return grid, overview


def measured(grid: Grid, estimate: GridEstimate) -> GridEstimate:
    """Time what is not known, with the progress on the screen."""
    from rich.progress import Progress  # noqa: PLC0415

    from kdbench.grid.timing import measure  # noqa: PLC0415

    shown = Progress(console=console, transient=True, disable=not console.is_terminal)
    with tempfile.TemporaryDirectory(prefix="kdbench-") as scratch, shown:
        task = shown.add_task("", total=1.0)
        return measure(
            grid,
            estimate,
            Path(scratch),
            observe=lambda what, part: shown.update(task, completed=part, description=what),
        )


def _retry(grid: Grid) -> str:
    return f"kdbench grid retry {grid.file.path}"


def missing(grid: Grid, overview: Overview, *, slurm: bool = False) -> list[Cell]:
    """Cells that are not done, have not failed and are not queued on Slurm; for Slurm, nor with anybody else."""
    from kdbench.grid.states import State  # noqa: PLC0415

    here, elsewhere, orphans = [], 0, 0
    failed_teachers = {status.cell.as_teacher.id for status in overview.teachers if status.state == State.FAILED}
    for status in overview.statuses:
        if status.state in (State.PLANNED, State.LOST):
            orphan = status.cell.teacher is not None and status.cell.teacher.id in failed_teachers
            orphans += orphan
            here += [] if orphan else [status.cell]
        elif status.state in (State.QUEUED, State.RUNNING):
            submission = overview.jobs.get(status.cell.id, (None, None))[0]
            local = submission is None or submission.kind == "local"
            here += [status.cell] if local and not slurm else []
            elsewhere += slurm or not local
    if elsewhere:
        console.print(f"{elsewhere} cells are queued or running and left alone; 'kdbench grid cancel' takes them back")
    if orphans:
        console.print(f"{orphans} cells have no teacher, since it failed; '{_retry(grid)}' tries it again")
    if failed := overview.count(State.FAILED):
        console.print(f"{failed} cells failed before; '{_retry(grid)}' tries them again")
    return here


def start(
    grid: Grid, overview: Overview, cells: Sequence[Cell], profile: Profile | None, launch: Launch, *, stay: bool
) -> None:
    """Submit cells to Slurm where there is a profile, else to workers of this machine.

    Parameters
    ----------
    stay
        Whether to watch workers of this machine until all is done.
    """
    from kdbench.cli.grid_view import headline  # noqa: PLC0415
    from kdbench.slurm.local import Workers  # noqa: PLC0415
    from kdbench.slurm.submit import Submitter  # noqa: PLC0415

    path = grid.file.path
    if not cells:
        console.print(headline(grid, overview.statuses))
        print_counts(grid, overview.statuses)
        console.print(f"nothing is left to run; 'kdbench table {grid.session.runs}' compares what is done")
        return
    _ = grid.session.dataset  # what is missing is said here, not by every cell
    if profile:
        submission = Submitter(grid, overview, profile, launch).submit(cells, console.print)
        console.print(f"{len(cells)} cells are submitted: 'kdbench grid status {path}' shows how they do")
        console.print(f"logs: {submission.folder}")
        return
    with Stop() as stop:
        workers = Workers(grid, cells, launch)
        if not stay:
            workers.wait_until_up()
            console.print(f"{launch.jobs} workers go on by themselves: 'kdbench grid status {path} --watch' shows them")
            return
        statuses = _watch(grid, workers, launch.jobs, overview, stop)
    workers.tidy()
    print_counts(grid, statuses)
    _conclude(grid, statuses, workers)


def _watch(grid: Grid, workers: Workers, jobs: int, overview: Overview, stop: Stop) -> list[Status]:
    """Show what workers do until nothing is left, with new ones for those that die; return the last states."""
    from rich.live import Live  # noqa: PLC0415

    from kdbench.cli.grid_view import lines, picture  # noqa: PLC0415
    from kdbench.grid.states import State, survey  # noqa: PLC0415
    from kdbench.slurm.scheduler import Slurm  # noqa: PLC0415
    from kdbench.utils.text import clock  # noqa: PLC0415

    runs, scheduler = grid.session.runs, Slurm()
    latest = {status.cell.id: status for status in overview.statuses}
    deaths, started = 0, time.monotonic()
    open_before = sum(status.state not in (State.DONE, State.FAILED) for status in overview.statuses)
    live = Live(console=console, refresh_per_second=2, transient=True)
    with live:
        while True:
            over = all(workers.ended(number) for number in range(jobs))
            unfinished = [s.cell for s in latest.values() if s.state not in (State.DONE, State.FAILED)]
            for status in survey(unfinished, runs, scheduler, {}, {}):
                if status.state in (State.DONE, State.FAILED):
                    deaths = 0
                    for line in lines([status], [status.state]):
                        console.print(line)
                latest[status.cell.id] = status
            statuses = list(latest.values())
            open_now = sum(status.state not in (State.DONE, State.FAILED) for status in statuses)
            if console.is_terminal:
                gone, elapsed = open_before - open_now, time.monotonic() - started
                left = f", about {clock(elapsed / gone * open_now)} left" if gone and open_now else ""
                live.update(
                    picture(
                        grid,
                        statuses,
                        survey(grid.to_train, runs, scheduler, {}, {}),
                        console.width,
                        f"{clock(elapsed)}{left}",
                    )
                )
            if stop.signum is not None:
                console.print("stopping: the cells that run are being saved")
                workers.stop()
                raise Interrupted("all states are saved: type the same command to go on", stop.signum)
            if over:
                return statuses
            for number in range(jobs):
                if not workers.ended(number) and not workers.alive(number) and not workers.ended(number):
                    deaths += 1
                    console.print(f"worker {number + 1} died: a new one goes on")
                    if deaths > _DEATHS_PER_WORKER * jobs:
                        workers.stop()
                        raise UserError(f"workers keep dying; their logs are in {workers.submission.folder}")
                    workers.start(number)
            time.sleep(_LOOK_EVERY)


def _conclude(grid: Grid, statuses: list[Status], workers: Workers) -> None:
    from kdbench.grid.states import State  # noqa: PLC0415

    failed = sum(status.state == State.FAILED for status in statuses)
    left = sum(status.state not in (State.DONE, State.FAILED) for status in statuses)
    if failed or left:
        parts = ([f"{failed} failed"] if failed else []) + ([f"{left} left"] if left else [])
        raise UserError(
            f"{' and '.join(parts)} of {len(statuses)} cells: 'kdbench grid status {grid.file.path}' says why, "
            f"'kdbench grid retry {grid.file.path}' tries them again; logs: {workers.submission.folder}"
        )
    console.print(f"all done; 'kdbench table {grid.session.runs}' compares the cells")
