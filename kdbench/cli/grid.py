"""``kdbench grid``: plan, run, submit, watch, retry and cancel the cells of a grid's file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kdbench.cli.options import Cache, Compile, Device, Download, Runs, SaveEvery, console
from kdbench.errors import Interrupted, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kdbench.cell import Cell
    from kdbench.grid import Grid
    from kdbench.slurm.local import Workers
    from kdbench.slurm.submissions import Overview
    from kdbench.states import Status

app = typer.Typer(
    help="Run all pairs, methods and seeds of a file, here or on Slurm.", no_args_is_help=True, rich_markup_mode=None
)

File = Annotated[Path, typer.Argument(help="The grid, a TOML file; README.md shows one.", metavar="GRID.toml")]
GridData = Annotated[
    str | None, typer.Option("--data", help="Folder of data sets, or one file. [default: data]", metavar="DIR|npz:FILE")
]
Jobs = Annotated[int, typer.Option(help="Worker processes; several GPUs are shared out among them.", min=1)]
Together = Annotated[int, typer.Option(help="Cells of one seed that a worker trains in lockstep, at most.", min=1)]
ProfileFile = Annotated[
    Path | None, typer.Option("--profile", help="What the cluster's jobs ask for; see slurm/profiles.", metavar="FILE")
]
Cluster = Annotated[
    Literal["slurm", "local"], typer.Option(help="local: workers on this machine that go on by themselves.")
]
_LOOK_EVERY = 1.0
_DEATHS_PER_WORKER = 6
"""Workers may die so often without anything being finished in between; a cell alone that kills them fails before."""


@app.command("plan")
def grid_plan(file: File, runs: Runs = Path("runs"), data: GridData = None) -> None:
    """Show what a grid needs: cells, teachers, caches, time and disk."""
    from kdbench.grid_view import counts, headline  # noqa: PLC0415

    grid, overview = _opened(file, runs, data)
    console.print(headline(grid, overview.statuses))
    console.print(counts(grid, overview.statuses))


@app.command("run")
def grid_run(
    file: File,
    jobs: Jobs = 1,
    cache: Cache = "auto",
    together: Together = 1,
    runs: Runs = Path("runs"),
    data: GridData = None,
    download: Download = False,
    device: Device = None,
    compile_: Compile = False,
    save_every: SaveEvery = 60.0,
) -> None:
    """Run what is missing, here, until all is done. May be typed again, and twice at once."""
    grid, overview = _opened(file, runs, data, download=download, device=device)
    options = {"device": device, "compile": compile_, "save_every": save_every}
    _run_here(grid, overview, _missing(grid, overview), jobs, cache, together, options)


@app.command("status")
def grid_status(
    file: File,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and show it again every few seconds.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="A line for every cell.")] = False,
    runs: Runs = Path("runs"),
    data: GridData = None,
) -> None:
    """Show the state of every cell, why it failed, and where its log is."""
    from rich.live import Live  # noqa: PLC0415

    from kdbench.grid_view import counts, headline, lines, picture  # noqa: PLC0415
    from kdbench.slurm.scheduler import Slurm  # noqa: PLC0415
    from kdbench.slurm.submissions import look  # noqa: PLC0415
    from kdbench.states import State  # noqa: PLC0415

    grid, overview = _opened(file, runs, data)
    if watch:
        with Live(console=console) as live:
            while True:
                live.update(picture(grid, overview.statuses, overview.teachers, overview.problem))
                if not overview.of(State.PLANNED, State.RUNNING, State.QUEUED):
                    break
                time.sleep(5 * _LOOK_EVERY)
                overview = look(grid, Slurm())
    console.print(headline(grid, overview.statuses))
    console.print(counts(grid, overview.statuses))
    for status in overview.teachers:
        for line in lines([status], list(State)):
            console.print(f"teacher {line}", markup=False)
    order = [State.FAILED, State.LOST, State.RUNNING, State.QUEUED, State.DONE, State.PLANNED]
    few = len(overview.statuses) <= 60
    for line in lines(overview.statuses, order if everything or few else order[:4], everything=everything):
        console.print(line)
    if overview.problem:
        console.print(overview.problem)
    if overview.of(State.FAILED, State.LOST):
        console.print(f"'kdbench grid retry {file}' tries failed and lost cells again")


def _opened(
    file: Path, runs: Path, data: str | None, *, download: bool = False, device: str | None = None
) -> tuple[Grid, Overview]:
    from kdbench.grid import Grid  # noqa: PLC0415
    from kdbench.slurm.scheduler import Slurm  # noqa: PLC0415
    from kdbench.slurm.submissions import look  # noqa: PLC0415

    scheduler = Slurm()
    grid = Grid.open(file, runs=runs.absolute(), data=data, download=download, device=device, scheduler=scheduler)
    return grid, look(grid, scheduler)


def _missing(grid: Grid, overview: Overview) -> list[Cell]:
    """Cells that are not done, have not failed, and are not in Slurm's hands."""
    from kdbench.states import State  # noqa: PLC0415

    here = []
    elsewhere = 0
    for status in overview.statuses:
        if status.state in (State.PLANNED, State.LOST, State.RUNNING):
            here.append(status.cell)
        elif status.state == State.QUEUED:
            submission, _ = overview.jobs[status.cell.id]
            here += [status.cell] if submission.kind == "local" else []
            elsewhere += submission.kind != "local"
    if elsewhere:
        console.print(f"{elsewhere} cells are queued on Slurm and left to it; 'kdbench grid cancel' takes them back")
    if failed := overview.count(State.FAILED):
        console.print(f"{failed} cells failed before; 'kdbench grid retry {grid.file.path}' tries them again")
    return here


def _session_values(grid: Grid, options: dict[str, Any]) -> dict[str, Any]:
    """What a job opens its session with, wherever it runs."""
    file, session = grid.file, grid.session
    data = str(session.data)
    data = f"npz:{Path(data[4:]).absolute()}" if data.startswith("npz:") else str(session.data.absolute())
    values = {"protocol": file.protocol, "epochs": file.epochs, "precision": file.precision}
    return values | {"runs": str(session.runs.absolute()), "data": data} | options


def _run_here(
    grid: Grid,
    overview: Overview,
    cells: Sequence[Cell],
    jobs: int,
    cache: Literal["auto", "on", "off"],
    together: int,
    options: dict[str, Any],
) -> None:
    from kdbench.grid_view import counts, headline  # noqa: PLC0415
    from kdbench.slurm.local import Workers  # noqa: PLC0415
    from kdbench.work import Workload  # noqa: PLC0415

    if not cells:
        console.print(headline(grid, overview.statuses))
        console.print(counts(grid, overview.statuses))
        console.print(f"nothing is left to run; 'kdbench table {grid.session.runs}' compares what is done")
        return
    _ = grid.session.dataset  # what is missing is said here, not by every cell
    needed = {cell.teacher.id for cell in cells if cell.teacher}
    workload = Workload(
        session=_session_values(grid, options),
        train=tuple(cell for cell in grid.to_train if f"cell:{cell.id}" in needed),
        caches=() if cache == "off" else tuple(cells),
        cells=tuple(cells),
        cache=cache,
        together=together,
        shared=True,
    )
    workers = Workers(grid, workload, jobs)
    statuses = _watch(grid, workers, jobs, overview)
    console.print(counts(grid, statuses))
    _conclude(grid, statuses, workers)


def _watch(grid: Grid, workers: Workers, jobs: int, overview: Overview) -> list[Status]:
    """Show what workers do until nothing is left, with new ones for those that die; return the last states."""
    from rich.live import Live  # noqa: PLC0415

    from kdbench.grid_view import lines, picture  # noqa: PLC0415
    from kdbench.signals import Stop  # noqa: PLC0415
    from kdbench.slurm.scheduler import Slurm  # noqa: PLC0415
    from kdbench.states import State, survey  # noqa: PLC0415

    runs, scheduler = grid.session.runs, Slurm()
    latest = {status.cell.id: status for status in overview.statuses}
    deaths = 0
    live = Live(console=console, refresh_per_second=2, transient=True)
    with Stop() as stop, live:
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
            if console.is_terminal:
                live.update(picture(grid, statuses, survey(grid.to_train, runs, scheduler, {}, {})))
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
    from kdbench.states import State  # noqa: PLC0415

    failed = sum(status.state == State.FAILED for status in statuses)
    left = sum(status.state not in (State.DONE, State.FAILED) for status in statuses)
    if failed or left:
        parts = ([f"{failed} failed"] if failed else []) + ([f"{left} could not be run"] if left else [])
        raise UserError(
            f"{' and '.join(parts)} of {len(statuses)} cells: 'kdbench grid status {grid.file.path}' says why, "
            f"'kdbench grid retry {grid.file.path}' tries them again; logs: {workers.submission.folder}"
        )
    console.print(f"all done; 'kdbench table {grid.session.runs}' compares the cells")
