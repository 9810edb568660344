"""``kdbench grid``: plan, run, submit, watch, retry and cancel the cells of a grid's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kdbench.cli.grid_running import cells_to_run, follow, open_grid, start
from kdbench.cli.options import (
    CacheOption,
    CompileOption,
    DeviceOption,
    DevicesOption,
    DownloadOption,
    PredictionsOption,
    RunsOption,
    SaveEveryOption,
    WorkersOption,
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
        "--data",
        help="Folder of data sets, or one data set: npz:FILE, or image files as folder:DIR, imagenet:DIR, "
        "tinyimagenet:DIR, tar:DIR, hfds:NAME. [default: the file's, else data]",
        metavar="DIR|KIND:DIR",
    ),
]
MAX_JOBS = 1000
"""Workers on one machine: more is a mistake in typing."""
JobsOption = Annotated[
    int | None,
    typer.Option(
        help="Number of worker processes; if there are several GPUs, they are shared out. [default: 1]",
        min=1,
        max=MAX_JOBS,
    ),
]
LockstepOption = Annotated[
    int | None,
    typer.Option(help="Maximum number of cells of one seed that a worker trains in lockstep. [default: 1]", min=1),
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
    """Show what a grid needs: cells, teachers, caches, time, disk, and controls of equal compute.

    Nothing is trained.
    """
    from kdbench.cli.grid_needs import caches, disk_lines, equal_lines, memory_lines, search_lines, time_lines
    from kdbench.cli.grid_view import headline, teachers
    from kdbench.grid.estimate import GridEstimate, this_device

    opened = open_grid(context, file, runs, data, device=device, looks=True)
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
    elif estimate.is_streamed and grid.teachers and grid.session.protocol.rules.augmentation.pool is None:
        echo()
        echo("teacher caches: none: no crop is seen twice without a pool of crops, so the live teacher is queried")
    echo()
    if measure:
        from kdbench.cli.grid_timing import measure_unknown

        estimate = measure_unknown(grid, estimate)
    for line in (
        *search_lines(grid, estimate),
        *time_lines(estimate),
        *memory_lines(grid, estimate),
        *disk_lines(grid, estimate),
        *equal_lines(grid),
    ):
        echo(line)
    reasons = estimate.unsupported
    failed = {variant.name: reason for variant, reason in estimate.speed.failed.items() if variant.name not in reasons}
    for what, by_name in (("unsupported", reasons), ("not timed", failed)):
        for name, reason in by_name.items():
            echo(f"{what}: {name}: {reason}")


@app.command("run")
def grid_run(
    context: typer.Context,
    file: FileArgument,
    jobs: JobsOption = None,
    cache: CacheOption = "auto",
    lockstep: LockstepOption = None,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
    devices: DevicesOption = 1,
    compile_: CompileOption = False,
    save_every: SaveEveryOption = 60.0,
    workers: WorkersOption = None,
    no_predictions: PredictionsOption = False,
) -> None:
    """Run the unfinished cells on this machine, or resume them.

    Ctrl-C saves the running cells. The same grid may be run twice at once: no cell is run twice.
    """
    from kdbench.grid.submissions import Launch

    opened = open_grid(context, file, runs, data, download=download, device=device)
    launch = Launch(
        jobs=jobs or 1,
        lockstep=lockstep or 1,
        cache=cache,
        device=device,
        devices=devices,
        compile=compile_,
        save_every=save_every,
        workers=workers,
        predictions=not no_predictions,
    )
    start(opened, cells_to_run(opened), None, launch, stay=True)


@app.command("submit")
def grid_submit(
    context: typer.Context,
    file: FileArgument,
    profile: ProfileOption = None,
    cluster: ClusterOption = "slurm",
    cache: CacheOption = "auto",
    jobs: JobsOption = None,
    lockstep: LockstepOption = None,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
    devices: DevicesOption = 1,
    compile_: CompileOption = False,
    save_every: SaveEveryOption = 60.0,
    workers: WorkersOption = None,
    no_predictions: PredictionsOption = False,
) -> None:
    """Submit the unfinished cells to Slurm or background workers.

    ``--jobs``, ``--lockstep`` and ``--devices`` are for ``--cluster local``; on Slurm, the profile holds the numbers.
    """
    from kdbench.grid.submissions import Launch

    resources = None
    if cluster == "local" and profile is not None:
        raise UserError("--profile is for Slurm: leave it out, or leave --cluster local out")
    if cluster == "slurm":
        from kdbench.slurm.profile import EXAMPLES, load_profile

        if jobs or lockstep or devices > 1:
            raise UserError(
                "--jobs, --lockstep and --devices are for --cluster local: leave them out, and set parallelism, "
                "lockstep and devices_per_cell in the profile"
            )
        if profile is None:
            raise UserError(
                f"Slurm needs --profile FILE ({EXAMPLES} has two examples); --cluster local starts workers on this "
                "machine instead"
            )
        resources = load_profile(profile)
    opened = open_grid(context, file, runs, data, download=download, device=device)
    launch = Launch(
        jobs=jobs or 1,
        lockstep=lockstep or 1,
        cache=cache,
        device=device,
        devices=devices,
        compile=compile_,
        save_every=save_every,
        workers=workers,
        predictions=not no_predictions,
    )
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
    from kdbench.cli.grid_jobs import retry

    resources = None
    if profile and jobs:
        raise UserError("--profile is for Slurm, and --jobs for this machine: leave one of them out")
    if profile:
        from kdbench.slurm.profile import load_profile

        resources = load_profile(profile)
    retry(open_grid(context, file, runs, data), resources, jobs)


@app.command("cancel")
def grid_cancel(
    context: typer.Context, file: FileArgument, runs: RunsOption = Path("runs"), data: DataOption = None
) -> None:
    """Cancel queued cells and stop running ones.

    States are saved, and finished cells are kept. Jobs that have cells of other grids are spared, and named.
    """
    from kdbench.cli.grid_jobs import cancel

    cancel(open_grid(context, file, runs, data))


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

    opened = open_grid(context, file, runs, data, looks=True)
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
