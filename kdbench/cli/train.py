"""``kdbench demo`` and ``kdbench train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.cli.options import (
    DEMO,
    CacheOption,
    CompileOption,
    DataOption,
    DeviceOption,
    DownloadOption,
    EpochsOption,
    PrecisionOption,
    ProtocolOption,
    RunsOption,
    SaveEveryOption,
    SeedsOption,
    TeacherHelp,
    command_line,
    echo,
    next_command,
)
from kdbench.cli.running import open_session, run_cells, train_teacher
from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.engine.session import Session
    from kdbench.experiment.cell import Cell


def demo(context: typer.Context, runs: RunsOption = Path("runs"), device: DeviceOption = None) -> None:
    """Run a small comparison on embedded data, in minutes.

    Trains a teacher, then students with and without it, prints a table and writes a report.
    """
    from kdbench.experiment.pairs import Pair
    from kdbench.experiment.protocol import load_protocol

    session = open_session(DEMO, runs=runs, device=device)
    _compare(context, session)
    protocol = load_protocol(session.protocol.demo.next)
    pair = Pair.parse(protocol.demo.pair)
    echo("\nThe same on CIFAR-100 (a GPU is advised):")
    rules, data, keep = ("--protocol", protocol.name), ("--data", "data"), ("runs", "device")
    teacher = command_line(
        context, "teacher", "train", *rules, "--network", pair.teacher, *data, "--download", keep=keep
    )
    taught = ("--teacher", pair.teacher, "--student", pair.student, "--method", protocol.demo.methods[-1], "--seed", 1)
    echo(f"  {teacher}")
    echo(f"  {command_line(context, 'train', *rules, *taught, *data, keep=keep)}")


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
    epochs: EpochsOption = None,
    precision: PrecisionOption = None,
    cache: CacheOption = "auto",
    lockstep: Annotated[
        int | None, typer.Option(help="Maximum number of cells of one seed that train in lockstep. [default: all]")
    ] = None,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
    compile_: CompileOption = False,
    save_every: SaveEveryOption = 60.0,
) -> None:
    """Train students, or resume them where they were stopped.

    Every combination of students, methods, settings and seeds is a cell. Cells of one seed train in lockstep: they
    share images and teacher outputs, and each gets the result that it would get without the others.
    """
    from kdbench.experiment.registry import method_name
    from kdbench.experiment.settings import parse_settings

    if lockstep is not None and lockstep < 1:
        raise UserError(f"--lockstep must be at least 1, not {lockstep}")
    methods = list(dict.fromkeys(method_name(name) for name in method))
    settings_of = parse_settings(settings or [], methods)
    session = open_session(
        protocol,
        runs=runs,
        data=data,
        epochs=epochs,
        precision=precision,
        device=device,
        download=download,
        save_every=save_every,
        compile_=compile_,
    )
    named = [
        session.cell(method=name, student=network, teacher=teacher, seed=number, settings=values)
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
    units = {"top1": " %", "top5": " %", "nll": "", "ece": " %", "agreement": " %", "teacher_kl": ""}
    for name, unit in units.items():
        if name in records[0]:
            echo(f"  {name:<11}{records[0][name]:8.3f}{unit}")
    echo(f"record: {cells[0].folder(runs) / 'record.json'}")


def _described(cell: Cell) -> str:
    """Describe a cell's method, its settings and their source."""
    values = ", ".join(f"{key} = {value}" for key, value in cell.settings.values().items())
    return f"{cell.method}: {values} ({cell.settings.source})"


def _compare(context: typer.Context, session: Session) -> None:
    """Run the comparison that a protocol proposes, print its table and write a report of all records."""
    from kdbench.analysis.records import Records, as_frame, read_records
    from kdbench.analysis.report import write_report
    from kdbench.analysis.splitting import split
    from kdbench.analysis.tables.layouts import detail
    from kdbench.analysis.tables.render import render
    from kdbench.experiment.pairs import Pair

    pair = Pair.parse(session.protocol.demo.pair)
    train_teacher(session, pair.teacher.network, seed=0)
    cells = [
        session.cell(method=method, student=pair.student, teacher=str(pair.teacher), seed=seed)
        for method in session.protocol.demo.methods
        for seed in session.protocol.demo.seeds
    ]
    (comparison,) = split(Records(as_frame(run_cells(session, cells)), [], []))
    echo(f"\n{render([detail(comparison, column) for column in comparison.pairs], 'terminal')}", end="")
    runs = session.runs
    table = next_command(context, "table", runs)
    echo(f"\nRecords: {runs / session.protocol.name}; type {table} to print this table again.")
    records = read_records(runs)
    command = shlex.join(["kdbench", "report", str(runs)])
    page, *_ = write_report(runs, runs / "report", split(records), records, command=command)
    echo(f"Report: {page}; open it in a browser.")
