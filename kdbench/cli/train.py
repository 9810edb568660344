"""``kdbench demo`` and ``kdbench train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.cli.options import (
    DEMO,
    Cache,
    Compile,
    Data,
    Device,
    Download,
    Epochs,
    Precision,
    Protocol,
    Runs,
    SaveEvery,
    console,
)
from kdbench.cli.running import run_shown, train_teacher_shown
from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.engine.session import Session
    from kdbench.experiment.cell import Cell


def demo(runs: Runs = Path("runs"), device: Device = None) -> None:
    """Compare all methods on embedded data, in minutes."""
    from kdbench.engine.session import Session  # noqa: PLC0415
    from kdbench.experiment.pairs import Pair  # noqa: PLC0415
    from kdbench.experiment.protocol import load_protocol  # noqa: PLC0415
    from kdbench.slurm.scheduler import Slurm  # noqa: PLC0415

    session = Session.open(DEMO, runs=runs, device=device, scheduler=Slurm())
    compare(session)
    real = load_protocol(session.protocol.demo.next)
    pair = Pair.parse(real.demo.pair)
    console.print("\nThe real thing, CIFAR-100 (a GPU is advised):")
    console.print(f"  kdbench teacher train --protocol {real.name} --network {pair.teacher} --data data --download")
    method = real.demo.methods[-1]
    networks = f"--teacher {pair.teacher} --student {pair.student}"
    console.print(f"  kdbench train --protocol {real.name} {networks} --method {method} --seed 1 --data data")


def train(
    protocol: Protocol,
    student: Annotated[list[str], typer.Option(help="Network to train; may be repeated. See 'kdbench list networks'.")],
    method: Annotated[list[str], typer.Option(help="How to distil; may be repeated. See 'kdbench list methods'.")],
    teacher: Annotated[str | None, typer.Option(help="NETWORK, or NETWORK@HASH where there are several.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Decides initial weights, order and views; may be repeated. [default: 1]")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A hyper-parameter; repeated, each of its values is tried.", metavar="[METHOD.]KEY=VALUE"
        ),
    ] = None,
    epochs: Epochs = None,
    precision: Precision = None,
    cache: Cache = "auto",
    together: Annotated[int | None, typer.Option(help="Cells trained in lockstep at most; all by default.")] = None,
    runs: Runs = Path("runs"),
    data: Data = "data",
    download: Download = False,
    device: Device = None,
    compile_: Compile = False,
    save_every: SaveEvery = 60.0,
) -> None:
    """Train students, or go on where they were stopped.

    Every combination of students, methods, settings and seeds is a cell. Those of one seed are trained in lockstep:
    they share images and teacher, and each gets the result that it has alone.
    """
    from kdbench.engine.session import Session  # noqa: PLC0415
    from kdbench.experiment.registry import method_name  # noqa: PLC0415
    from kdbench.experiment.settings import parse_settings  # noqa: PLC0415
    from kdbench.slurm.scheduler import Slurm  # noqa: PLC0415

    if together is not None and together < 1:
        raise UserError(f"--together must be at least 1, not {together}")
    methods = list(dict.fromkeys(method_name(name) for name in method))
    chosen = parse_settings(settings or [], methods)
    session = Session.open(
        protocol,
        runs=runs,
        data=data,
        epochs=epochs,
        precision=precision,
        device=device,
        download=download,
        save_every=save_every,
        compile=compile_,
        scheduler=Slurm(),
    )
    cells = [
        session.cell(method=name, student=network, teacher=teacher, seed=number, settings=values)
        for number in seed or [1]
        for network in student
        for name in methods
        for values in chosen[name]
    ]
    for text in dict.fromkeys(_described(cell) for cell in cells if cell.settings.values()):
        console.print(text, markup=False)
    records = run_shown(session, cells, cache=cache, together=together)
    if len(records) > 1:
        console.print(f"records: {session.runs / session.protocol.name}; 'kdbench table {session.runs}' compares them")
        return
    units = {"top1": " %", "top5": " %", "nll": "", "ece": " %", "agreement": " %", "teacher_kl": ""}
    for name, unit in units.items():
        if name in records[0]:
            console.print(f"  {name:<11}{records[0][name]:8.3f}{unit}")
    console.print(f"record: {cells[0].folder(runs) / 'record.json'}")


def _described(cell: Cell) -> str:
    """A cell's method with its settings and where they come from."""
    listed = ", ".join(f"{key} = {value}" for key, value in cell.settings.values().items())
    return f"{cell.method}: {listed} ({cell.settings.source})"


def compare(session: Session) -> None:
    """Run the comparison that a protocol proposes, print its table and write a report of all that is there."""
    from kdbench.analysis.records import Records, as_frame, read_records  # noqa: PLC0415
    from kdbench.analysis.report import write_report  # noqa: PLC0415
    from kdbench.analysis.splitting import split  # noqa: PLC0415
    from kdbench.analysis.tables.layouts import detail  # noqa: PLC0415
    from kdbench.analysis.tables.render import render  # noqa: PLC0415
    from kdbench.experiment.pairs import Pair  # noqa: PLC0415

    pair = Pair.parse(session.protocol.demo.pair)
    train_teacher_shown(session, pair.teacher.network, seed=0)
    cells = [
        session.cell(method=method, student=pair.student, teacher=str(pair.teacher), seed=seed)
        for method in session.protocol.demo.methods
        for seed in session.protocol.demo.seeds
    ]
    (found,) = split(Records(as_frame(run_shown(session, cells)), [], []))
    console.print(f"\n{render([detail(found, column) for column in found.pairs], 'terminal')}", markup=False, end="")
    runs = session.runs
    console.print(f"\nRecords: {runs / session.protocol.name}; 'kdbench table {runs}' prints them again.", markup=False)
    records = read_records(runs)
    page, *_ = write_report(runs, runs / "report", split(records), records, command=f"kdbench report {runs}")
    console.print(f"Report: {page}; open it in a browser.", markup=False)
