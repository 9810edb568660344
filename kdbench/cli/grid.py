"""``kdbench grid``: plan, run, submit, watch, retry and cancel the cells of a grid's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from kdbench.cli.grid_running import cells_to_run, follow, measure_unknown, open_grid, start
from kdbench.cli.options import (
    CacheOption,
    CompileOption,
    DeviceOption,
    DownloadOption,
    RunsOption,
    SaveEveryOption,
    console,
    echo,
)
from kdbench.errors import UserError

app = typer.Typer(
    help="Run all pairs, methods and seeds of a file, here or on Slurm.", no_args_is_help=True, rich_markup_mode=None
)

FileArgument = Annotated[
    Path, typer.Argument(help="TOML file of the grid; README.md shows an example.", metavar="GRID.toml")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", help="Folder of data sets, or one npz file. [default: the file's, else data]", metavar="DIR|npz:FILE"
    ),
]
MAX_JOBS = 1000
"""Workers on one machine: more is a mistake in typing."""
JobsOption = Annotated[
    int,
    typer.Option(
        help="Number of worker processes; if there are several GPUs, they are shared out.", min=1, max=MAX_JOBS
    ),
]
LockstepOption = Annotated[
    int, typer.Option(help="Maximum number of cells of one seed that a worker trains in lockstep.", min=1)
]
ProfileOption = Annotated[
    Path | None,
    typer.Option("--profile", help="What Slurm jobs request, a TOML file; see slurm/profiles.", metavar="FILE"),
]
ClusterOption = Annotated[
    Literal["slurm", "local"], typer.Option(help="slurm: jobs of Slurm; local: workers on this machine.")
]
_MAX_CELLS = 60
"""Cells of a grid of which each has a line without ``--all``."""


@app.command("plan")
def grid_plan(
    context: typer.Context,
    file: FileArgument,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time a few steps of cells whose time is unknown.")
    ] = False,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    device: DeviceOption = None,
) -> None:
    """Show what a grid needs: cells, teachers, caches, time, disk.

    Nothing is trained.
    """
    from kdbench.cli.grid_view import caches, disk_lines, headline, teachers, time_lines
    from kdbench.grid.estimate import GridEstimate, this_device
    from kdbench.grid.shapes import data_shape
    from kdbench.grid.unsupported import unsupported

    opened = open_grid(context, file, runs, data, device=device)
    grid, overview = opened.grid, opened.overview
    statuses = [*overview.statuses, *overview.teachers]
    estimate = GridEstimate.of(grid, statuses, device=this_device(grid.session.device) if measure else None)
    console().print(headline(grid, overview.statuses))
    opened.print_counts(overview.statuses)
    if grid.teachers:
        echo()
        console().print(teachers(grid, overview.teachers))
    if estimate.caches:
        echo()
        console().print(caches(estimate.caches))
    echo()
    if measure:
        estimate = measure_unknown(grid, estimate)
    for line in (*time_lines(estimate), *disk_lines(grid, estimate)):
        echo(line)
    for cell, reason in unsupported(grid, estimate.variants, data_shape(grid.session)).items():
        echo(f"unsupported: {cell}: {reason}")


@app.command("run")
def grid_run(
    context: typer.Context,
    file: FileArgument,
    jobs: JobsOption = 1,
    cache: CacheOption = "auto",
    lockstep: LockstepOption = 1,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
    compile_: CompileOption = False,
    save_every: SaveEveryOption = 60.0,
) -> None:
    """Run the unfinished cells on this machine, or resume them.

    Ctrl-C saves the running cells. The same grid may be run twice at once: no cell is run twice.
    """
    from kdbench.grid.submissions import Launch

    opened = open_grid(context, file, runs, data, download=download, device=device)
    launch = Launch(jobs=jobs, lockstep=lockstep, cache=cache, device=device, compile=compile_, save_every=save_every)
    start(opened, cells_to_run(opened), None, launch, stay=True)


@app.command("submit")
def grid_submit(
    context: typer.Context,
    file: FileArgument,
    profile: ProfileOption = None,
    cluster: ClusterOption = "slurm",
    cache: CacheOption = "auto",
    jobs: JobsOption = 1,
    lockstep: LockstepOption = 1,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
    compile_: CompileOption = False,
    save_every: SaveEveryOption = 60.0,
) -> None:
    """Submit the unfinished cells to Slurm or background workers.

    ``--jobs`` and ``--lockstep`` are for ``--cluster local``; on Slurm, the profile holds both numbers.
    """
    from kdbench.grid.submissions import Launch

    resources = None
    if cluster == "slurm":
        from kdbench.slurm.profile import EXAMPLES, load_profile

        if profile is None:
            raise UserError(
                f"Slurm needs --profile FILE ({EXAMPLES} has two examples); --cluster local starts workers on this "
                "machine instead"
            )
        resources = load_profile(profile)
    opened = open_grid(context, file, runs, data, download=download, device=device)
    launch = Launch(jobs=jobs, lockstep=lockstep, cache=cache, device=device, compile=compile_, save_every=save_every)
    start(opened, cells_to_run(opened, slurm=cluster == "slurm"), resources, launch, stay=False)


@app.command("retry")
def grid_retry(
    context: typer.Context,
    file: FileArgument,
    profile: ProfileOption = None,
    jobs: Annotated[
        int | None, typer.Option(help="Run them on this machine, with this number of workers.", min=1, max=MAX_JOBS)
    ] = None,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
) -> None:
    """Run failed and lost cells again, as they were last started.

    They run on Slurm or here, with the same options; ``--profile`` and ``--jobs`` override where.
    """
    from kdbench.experiment.folder import FAILURE
    from kdbench.grid.states import State
    from kdbench.grid.submissions import Launch

    overview = open_grid(context, file, runs, data).overview
    again = {
        status.cell.id: status
        for status in (*overview.statuses, *overview.teachers)
        if status.state in (State.FAILED, State.LOST)
    }
    if not again:
        echo("nothing to retry: no cell has failed or is lost")
        return
    last = [overview.jobs[cell][0] for cell in again if cell in overview.jobs][-1:]
    launch = last[0].launch if last else Launch()
    resources = None
    if profile:
        from kdbench.slurm.profile import load_profile

        resources = load_profile(profile)
    elif last and last[0].launcher == "slurm" and not jobs:
        from kdbench.slurm.profile import profile_from

        resources = profile_from(last[0].profile)
    for status in again.values():
        (status.folder / FAILURE).unlink(missing_ok=True)
    opened = open_grid(context, file, runs, data)
    teachers = {status.cell.as_teacher.id for status in again.values()}
    cells = [
        status.cell
        for status in opened.overview.statuses
        if status.cell.id in again
        or (status.state == State.PLANNED and status.cell.teacher and status.cell.teacher.id in teachers)
    ]
    start(opened, cells, resources, replace(launch, jobs=jobs or launch.jobs), stay=True)


@app.command("cancel")
def grid_cancel(
    context: typer.Context, file: FileArgument, runs: RunsOption = Path("runs"), data: DataOption = None
) -> None:
    """Cancel queued cells and stop running ones.

    States are saved, and finished cells are kept.
    """
    from kdbench.grid.states import State
    from kdbench.grid.workers import stop_worker
    from kdbench.utils.text import counted

    opened = open_grid(context, file, runs, data)
    grid, overview = opened.grid, opened.overview
    cell_ids = {cell.id for cell in (*grid.cells, *grid.to_train)}
    unfinished = {
        status.cell.id
        for status in (*overview.statuses, *overview.teachers)
        if status.state in (State.QUEUED, State.RUNNING)
    }
    jobs = {}
    for cell in unfinished & overview.jobs.keys():
        submission, _ = overview.jobs[cell]
        for job in submission.jobs:
            if set(job.cells) <= cell_ids:
                jobs[submission.folder, job.id] = (submission, job)
    scheduler = grid.session.scheduler
    stopped = [
        stop_worker(submission, job, scheduler) for submission, job in jobs.values() if submission.launcher == "local"
    ]
    messages = [text for text in stopped if text]
    job_ids = sorted({job.id for submission, job in jobs.values() if submission.launcher == "slurm"})
    if job_ids:
        from kdbench.slurm.scheduler import run_command

        if run_command("scancel", *job_ids) is None:
            raise UserError("Slurm does not answer: no Slurm job was cancelled; type the same command again later")
        messages.append(f"cancelled {counted(len(job_ids), 'Slurm job')}")
    for text in messages:
        echo(text)
    if not messages:
        echo("nothing to cancel: no cell is queued or running")
    elif job_ids:
        echo(f"type {opened.command('retry')} to submit the cancelled cells again")
    else:
        echo(f"type {opened.command('run')} to resume the cells here")


@app.command("status")
def grid_status(
    context: typer.Context,
    file: FileArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and update the view every few seconds.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Print a line for every cell.")] = False,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
) -> None:
    """Show the states of cells, why they failed, and their logs."""
    from kdbench.cli.grid_view import headline, lines
    from kdbench.grid.states import State

    opened = open_grid(context, file, runs, data)
    if watch:
        opened = follow(opened)
    grid, overview = opened.grid, opened.overview
    console().print(headline(grid, overview.statuses))
    opened.print_counts(overview.statuses)
    for status in overview.teachers:
        for line in lines([status], list(State)):
            echo(f"teacher {line}")
    order = [State.FAILED, State.LOST, State.RUNNING, State.QUEUED, State.DONE, State.PLANNED]
    shown = order if everything or len(overview.statuses) <= _MAX_CELLS else order[:4]
    for line in lines(overview.statuses, shown, everything=everything):
        console().print(line)
    if overview.problem:
        echo(overview.problem)
    if overview.cells_in(State.FAILED, State.LOST):
        echo(f"type {opened.command('retry')} to run the failed and lost cells again")
