"""``kdbench grid``: plan, run, submit, watch, retry and cancel the cells of a grid's file."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from kdbench.cli.grid_running import measured, missing, opened, print_counts, start
from kdbench.cli.options import Cache, Compile, Device, Download, Runs, SaveEvery, console
from kdbench.errors import UserError

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
_WATCH_EVERY = 5.0
"""Seconds between two looks of ``status --watch``."""


@app.command("plan")
def grid_plan(
    file: File,
    measure: Annotated[bool, typer.Option("--measure", help="Time some steps of what has not been run yet.")] = False,
    runs: Runs = Path("runs"),
    data: GridData = None,
    device: Device = None,
) -> None:
    """Show what a grid needs: cells, teachers, caches, time and disk."""
    from kdbench.cli.grid_view import caches, disk_lines, headline, teachers, time_lines  # noqa: PLC0415
    from kdbench.grid.estimate import GridEstimate, this_device  # noqa: PLC0415
    from kdbench.grid.refusals import refusals  # noqa: PLC0415
    from kdbench.grid.shapes import data_shape  # noqa: PLC0415

    grid, overview = opened(file, runs, data, device=device)
    statuses = [*overview.statuses, *overview.teachers]
    estimate = GridEstimate.of(grid, statuses, device=this_device(grid.session.device) if measure else None)
    console.print(headline(grid, overview.statuses))
    print_counts(grid, overview.statuses)
    if grid.teachers:
        console.print()
        console.print(teachers(grid, overview.teachers))
    if estimate.caches:
        console.print()
        console.print(caches(estimate.caches))
    console.print()
    if measure:
        estimate = measured(grid, estimate)
    for line in (*time_lines(estimate), *disk_lines(grid, estimate)):
        console.print(line, markup=False)
    for what, reason in refusals(grid, estimate.kinds, data_shape(grid.session)).items():
        console.print(f"refused: {what}: {reason}", markup=False)


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
    from kdbench.slurm.submissions import Launch  # noqa: PLC0415

    grid, overview = opened(file, runs, data, download=download, device=device)
    launch = Launch(jobs=jobs, together=together, cache=cache, device=device, compile=compile_, save_every=save_every)
    start(grid, overview, missing(grid, overview), None, launch, stay=True)


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
    from kdbench.slurm.profile import EXAMPLES, load_profile  # noqa: PLC0415
    from kdbench.slurm.submissions import Launch  # noqa: PLC0415

    if cluster == "slurm" and profile is None:
        raise UserError(f"name a profile with --profile FILE ({EXAMPLES} has two examples), or --cluster local")
    found = load_profile(profile) if profile and cluster == "slurm" else None
    grid, overview = opened(file, runs, data, download=download, device=device)
    launch = Launch(jobs=jobs, together=together, cache=cache, device=device, compile=compile_, save_every=save_every)
    start(grid, overview, missing(grid, overview, slurm=cluster == "slurm"), found, launch, stay=False)


@app.command("retry")
def grid_retry(
    file: File,
    profile: ProfileFile = None,
    jobs: Annotated[int | None, typer.Option(help="Try them here, with so many workers.", min=1)] = None,
    runs: Runs = Path("runs"),
    data: GridData = None,
) -> None:
    """Try failed and lost cells again, as they were started last: on Slurm or here, with the same options."""
    from kdbench.experiment.folder import FAILURE  # noqa: PLC0415
    from kdbench.grid.states import State  # noqa: PLC0415
    from kdbench.slurm.profile import load_profile, profile_from  # noqa: PLC0415
    from kdbench.slurm.submissions import Launch  # noqa: PLC0415

    grid, overview = opened(file, runs, data)
    both = (*overview.statuses, *overview.teachers)
    again = {status.cell.id: status for status in both if status.state in (State.FAILED, State.LOST)}
    if not again:
        console.print("no cell has failed or is lost")
        return
    last = [overview.jobs[cell][0] for cell in again if cell in overview.jobs][-1:]
    launch = last[0].launch if last else Launch()
    found = profile_from(last[0].profile) if last and last[0].kind == "slurm" else None
    if profile or jobs:
        found = load_profile(profile) if profile else None
        launch = replace(launch, jobs=jobs or launch.jobs)
    for status in again.values():
        (status.folder / FAILURE).unlink(missing_ok=True)
    grid, overview = opened(file, runs, data)
    teachers = {status.cell.as_teacher.id for status in again.values()}
    cells = [
        status.cell
        for status in overview.statuses
        if status.cell.id in again
        or (status.state == State.PLANNED and status.cell.teacher and status.cell.teacher.id in teachers)
    ]
    start(grid, overview, cells, found, launch, stay=True)


@app.command("cancel")
def grid_cancel(file: File, runs: Runs = Path("runs"), data: GridData = None) -> None:
    """Take back what is queued and stop what runs; states are saved, and nothing that is done is lost."""
    from kdbench.grid.states import State  # noqa: PLC0415
    from kdbench.slurm.local import stop_worker  # noqa: PLC0415
    from kdbench.slurm.scheduler import ask  # noqa: PLC0415

    grid, overview = opened(file, runs, data)
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

    from kdbench.cli.grid_view import headline, lines, picture  # noqa: PLC0415
    from kdbench.grid.states import State  # noqa: PLC0415
    from kdbench.slurm.scheduler import Slurm  # noqa: PLC0415
    from kdbench.slurm.submissions import look  # noqa: PLC0415

    grid, overview = opened(file, runs, data)
    if watch:
        with Live(console=console) as live:
            while True:
                live.update(picture(grid, overview.statuses, overview.teachers, console.width, overview.problem))
                if not overview.of(State.PLANNED, State.RUNNING, State.QUEUED):
                    break
                time.sleep(_WATCH_EVERY)
                overview = look(grid, Slurm())
    console.print(headline(grid, overview.statuses))
    print_counts(grid, overview.statuses)
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
