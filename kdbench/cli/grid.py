"""``kdbench grid``: plan, run, submit, watch, retry and cancel the cells of a grid's file."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kdbench.cli.options import Cache, Compile, Device, Download, Runs, SaveEvery, console
from kdbench.errors import Interrupted, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kdbench.cell import Cell
    from kdbench.estimate import GridEstimate
    from kdbench.grid import Grid
    from kdbench.slurm.local import Workers
    from kdbench.slurm.profile import Profile
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
def grid_plan(
    file: File,
    measure: Annotated[bool, typer.Option("--measure", help="Time some steps of what has not been run yet.")] = False,
    runs: Runs = Path("runs"),
    data: GridData = None,
    device: Device = None,
) -> None:
    """Show what a grid needs: cells, teachers, caches, time and disk."""
    from kdbench.estimate import GridEstimate, this_device  # noqa: PLC0415
    from kdbench.grid_view import caches, counts, disk_lines, headline, teachers, time_lines  # noqa: PLC0415

    grid, overview = _opened(file, runs, data, device=device)
    statuses = [*overview.statuses, *overview.teachers]
    estimate = GridEstimate.of(grid, statuses, device=this_device(grid.session.device) if measure else None)
    console.print(headline(grid, overview.statuses))
    console.print(counts(grid, overview.statuses))
    if grid.teachers:
        console.print(teachers(grid, overview.teachers))
    if estimate.caches:
        console.print(caches(estimate.caches))
    if measure:
        estimate = _measured(grid, estimate)
    for line in (*time_lines(estimate), *disk_lines(grid, estimate)):
        console.print(line, markup=False)


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


@app.command("submit")
def grid_submit(
    file: File,
    profile: ProfileFile = None,
    cluster: Cluster = "slurm",
    cache: Cache = "auto",
    jobs: Jobs = 1,
    together: Together = 1,
    runs: Runs = Path("runs"),
    data: GridData = None,
    download: Download = False,
    device: Device = None,
    compile_: Compile = False,
    save_every: SaveEvery = 60.0,
) -> None:
    """Submit what is missing; nothing has to stay alive here.

    ``--jobs`` and ``--together`` are for ``--cluster local``; on Slurm the profile says how many.
    """
    from kdbench.slurm.profile import load_profile  # noqa: PLC0415

    if cluster == "slurm" and profile is None:
        raise UserError("name a profile with --profile FILE (slurm/profiles has two examples), or --cluster local")
    found = load_profile(profile) if profile and cluster == "slurm" else None
    grid, overview = _opened(file, runs, data, download=download, device=device)
    options = {"device": device, "compile": compile_, "save_every": save_every}
    cells = _missing(grid, overview, slurm=cluster == "slurm")
    _start(grid, overview, cells, found, jobs, cache, together, options)


@app.command("retry")
def grid_retry(
    file: File,
    profile: ProfileFile = None,
    jobs: Annotated[int | None, typer.Option(help="Try them here, with so many workers.", min=1)] = None,
    cache: Cache = "auto",
    together: Together = 1,
    runs: Runs = Path("runs"),
    data: GridData = None,
    device: Device = None,
    compile_: Compile = False,
    save_every: SaveEvery = 60.0,
) -> None:
    """Try failed and lost cells again: as the grid was started last, on Slurm with the same profile, or here."""
    from kdbench.runs import FAILURE  # noqa: PLC0415
    from kdbench.slurm.profile import load_profile, profile_from  # noqa: PLC0415
    from kdbench.slurm.scheduler import Slurm  # noqa: PLC0415
    from kdbench.slurm.submissions import look  # noqa: PLC0415
    from kdbench.states import State  # noqa: PLC0415

    found = load_profile(profile) if profile else None
    grid, overview = _opened(file, runs, data, device=device)
    options = {"device": device, "compile": compile_, "save_every": save_every}
    again = [
        status for status in (*overview.statuses, *overview.teachers) if status.state in (State.FAILED, State.LOST)
    ]
    if not again:
        console.print("no cell has failed or is lost")
        return
    ids = {status.cell.id for status in again}
    if found is None and jobs is None:
        last = [overview.jobs[cell][0] for cell in ids if cell in overview.jobs]
        on_slurm = [submission for submission in last if submission.kind == "slurm"]
        found = profile_from(on_slurm[-1].profile) if on_slurm else None
    for status in again:
        (status.folder / FAILURE).unlink(missing_ok=True)
    overview = look(grid, Slurm())
    cells = [status.cell for status in overview.statuses if status.cell.id in ids]
    failed_teachers = {f"cell:{cell}" for cell in ids}
    cells += [
        s.cell
        for s in overview.statuses
        if s.cell.teacher and s.cell.teacher.id in failed_teachers and s.state == State.PLANNED
    ]
    _start(grid, overview, cells, found, jobs or 1, cache, together, options, stay=True)


@app.command("cancel")
def grid_cancel(file: File, runs: Runs = Path("runs"), data: GridData = None) -> None:
    """Take back what is queued and stop what runs; states are saved, and nothing that is done is lost."""
    from kdbench.slurm.local import stop_worker  # noqa: PLC0415
    from kdbench.slurm.scheduler import ask  # noqa: PLC0415
    from kdbench.states import State  # noqa: PLC0415

    grid, overview = _opened(file, runs, data)
    mine = {cell.id for cell in (*grid.cells, *grid.to_train)}
    open_cells = {
        status.cell.id
        for status in (*overview.statuses, *overview.teachers)
        if status.state in (State.QUEUED, State.RUNNING)
    }
    jobs = {}
    for cell in open_cells & overview.jobs.keys():
        submission, _ = overview.jobs[cell]
        for job in submission.jobs:
            if set(job.cells) <= mine:
                jobs[submission.folder, job.id] = (submission, job)
    told = [stop_worker(submission, job) for submission, job in jobs.values() if submission.kind == "local"]
    numbers = sorted({job.id for submission, job in jobs.values() if submission.kind == "slurm"})
    if numbers and ask("scancel", *numbers) is None:
        raise UserError("Slurm does not answer: nothing was cancelled")
    told += [f"{len(numbers)} jobs of Slurm are cancelled"] if numbers else []
    for text in filter(None, told):
        console.print(text)
    if not any(told):
        console.print("nothing is queued or running")
    else:
        console.print(f"'kdbench grid retry {file}' or '... submit' goes on where they were")


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


def _measured(grid: Grid, estimate: GridEstimate) -> GridEstimate:
    """Time what is not known, with the progress on the screen."""
    from rich.progress import Progress  # noqa: PLC0415

    from kdbench.grid_bench import measure  # noqa: PLC0415

    shown = Progress(console=console, transient=True, disable=not console.is_terminal)
    with tempfile.TemporaryDirectory(prefix="kdbench-") as scratch, shown:
        task = shown.add_task("", total=1.0)
        return measure(
            grid,
            estimate,
            Path(scratch),
            observe=lambda what, part: shown.update(task, completed=part, description=what),
        )


def _missing(grid: Grid, overview: Overview, *, slurm: bool = False) -> list[Cell]:
    """Cells that are not done, have not failed and are not queued on Slurm; for Slurm, nor with anybody else."""
    from kdbench.states import State  # noqa: PLC0415

    here = []
    elsewhere = 0
    for status in overview.statuses:
        if status.state in (State.PLANNED, State.LOST):
            here.append(status.cell)
        elif status.state in (State.QUEUED, State.RUNNING):
            submission = overview.jobs.get(status.cell.id, (None, None))[0]
            local = submission is None or submission.kind == "local"
            here += [status.cell] if local and not slurm else []
            elsewhere += slurm or not local
    if elsewhere:
        console.print(f"{elsewhere} cells are queued or running and left alone; 'kdbench grid cancel' takes them back")
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


def _start(
    grid: Grid,
    overview: Overview,
    cells: Sequence[Cell],
    profile: Profile | None,
    jobs: int,
    cache: Literal["auto", "on", "off"],
    together: int,
    options: dict[str, Any],
    *,
    stay: bool = False,
) -> None:
    """Submit cells to Slurm where there is a profile, else to workers of this machine."""
    if profile is None:
        _run_here(grid, overview, cells, jobs, cache, together, options, stay=stay)
        return
    from kdbench.slurm.submit import Submitter  # noqa: PLC0415

    if not cells:
        console.print("nothing is left to submit")
        return
    _ = grid.session.dataset
    submitter = Submitter(grid, overview, profile, _session_values(grid, options), cache)
    submission = submitter.submit(cells, console.print)
    console.print(
        f"{len(cells)} cells are submitted; 'kdbench grid status {grid.file.path}' shows how they do; "
        f"logs: {submission.folder}"
    )


def _run_here(
    grid: Grid,
    overview: Overview,
    cells: Sequence[Cell],
    jobs: int,
    cache: Literal["auto", "on", "off"],
    together: int,
    options: dict[str, Any],
    *,
    stay: bool = True,
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
    if not stay:
        workers.wait_until_up()
        console.print(f"{jobs} workers go on by themselves; 'kdbench grid status {grid.file.path} --watch' shows them")
        return
    statuses = _watch(grid, workers, jobs, overview)
    workers.tidy()
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
