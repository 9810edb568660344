"""``kdbench train``: train students."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.cli.options import (
    CacheOption,
    CompileOption,
    DataOption,
    DatasetOption,
    DeviceOption,
    DevicesOption,
    DownloadOption,
    EpochsOption,
    InitHelp,
    PrecisionOption,
    PredictionsOption,
    ProtocolOption,
    RunsOption,
    SaveEveryOption,
    SeedsOption,
    TeacherHelp,
    WorkersOption,
    echo,
    next_command,
)
from kdbench.cli.running import bring, open_session, run_cells
from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.experiment.cell import Cell


def train(
    context: typer.Context,
    protocol: ProtocolOption,
    student: Annotated[
        list[str], typer.Option(help="Network to train; may be repeated. 'kdbench list networks' lists them.")
    ],
    method: Annotated[
        list[str], typer.Option(help="Distillation method; may be repeated. 'kdbench list methods' lists them.")
    ],
    teacher: Annotated[str | None, typer.Option(help=TeacherHelp)] = None,
    seed: SeedsOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting of a method; if it is repeated with several values, each is tried.",
            metavar="[METHOD.]KEY=VALUE",
        ),
    ] = None,
    init: Annotated[str | None, typer.Option(help=InitHelp, metavar="FILE|NAME")] = None,
    epochs: EpochsOption = None,
    precision: PrecisionOption = None,
    cache: CacheOption = "auto",
    lockstep: Annotated[
        int | None, typer.Option(help="Maximum number of cells of one seed that train in lockstep. [default: all]")
    ] = None,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    dataset: DatasetOption = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
    devices: DevicesOption = 1,
    compile_: CompileOption = False,
    save_every: SaveEveryOption = 60.0,
    workers: WorkersOption = None,
    no_predictions: PredictionsOption = False,
) -> None:
    """Train students, or resume them where they were stopped.

    Every combination of students, methods, settings and seeds is a cell. Cells of one seed train in lockstep: they
    share images and teacher outputs, and each gets the result that it would get without the others.
    """
    from kdbench.experiment.registry import method_name
    from kdbench.experiment.settings import parse_settings

    if lockstep is not None and lockstep < 1:
        raise UserError(f"--lockstep must be at least 1, not {lockstep}")
    if init is not None and len(student) > 1:
        raise UserError("--init gives the weights of one network: name one with --student")
    methods = list(dict.fromkeys(method_name(name) for name in method))
    settings_of = parse_settings(settings or [], methods)
    session = open_session(
        protocol,
        runs=runs,
        data=data,
        dataset=dataset,
        epochs=epochs,
        precision=precision,
        device=device,
        devices=devices,
        download=download,
        save_every=save_every,
        workers=workers,
        compile_=compile_,
        predictions=not no_predictions,
    )
    start = "" if init is None else bring(session, student[0], init)
    named = [
        session.cell(method=name, student=network, teacher=teacher, seed=number, settings=values, init=start)
        for number in seed or [1]
        for network in student
        for name in methods
        for values in settings_of[name]
    ]
    cells = list({cell.id: cell for cell in named}.values())  # names may be repeated
    for text in dict.fromkeys(_described(cell) for cell in cells if cell.settings.values()):
        echo(text)
    records = run_cells(session, cells, cache=cache, lockstep=lockstep)
    table = next_command(context, "table", runs)
    if len(records) > 1:
        echo(f"records: {session.runs / session.protocol.name}; type {table} to compare them")
        return
    units = {"top1": " %", "top5": " %", "balanced_accuracy": " %", "macro_f1": " %", "nll": "", "ece": " %"}
    for name, unit in (units | {"agreement": " %", "teacher_kl": ""}).items():
        if name in records[0]:
            echo(f"  {name:<18}{records[0][name]:8.3f}{unit}")
    echo(f"record: {cells[0].folder(runs) / 'record.json'}")


def _described(cell: Cell) -> str:
    """Describe a cell's method, its settings and their source."""
    values = ", ".join(f"{key} = {value}" for key, value in cell.settings.values().items())
    return f"{cell.method}: {values} ({cell.settings.source})"
