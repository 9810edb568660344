"""The command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from kdbench.errors import Interrupted, UserError

if TYPE_CHECKING:
    from kdbench.cell import Cell
    from kdbench.session import Session
    from kdbench.teachers import TeacherCard

app = typer.Typer(
    help="Head-to-head benchmarks of knowledge-distillation methods.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
teacher_app = typer.Typer(help="Train, import and list teachers.", no_args_is_help=True)
data_app = typer.Typer(help="Work with data sets.", no_args_is_help=True)
app.add_typer(teacher_app, name="teacher")
app.add_typer(data_app, name="data")
console = Console(highlight=False, soft_wrap=True)

Protocol = Annotated[str, typer.Option(help="Training rules; 'kdbench list protocols' names all.")]
Runs = Annotated[Path, typer.Option(help="Folder of runs.", metavar="DIR")]
Data = Annotated[str, typer.Option(help="Folder of data sets, or one file.", metavar="DIR|npz:FILE")]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not there.")]
Epochs = Annotated[int | None, typer.Option(help="Train for so many epochs; the schedule keeps its shape.")]
Precision = Annotated[Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="Precision of the forward pass.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default a GPU where there is one.")]
SaveEvery = Annotated[float, typer.Option(help="Seconds between two saves of the state.")]
Network = Annotated[str, typer.Option(help="'kdbench list networks' names all.")]


@app.command()
def demo(runs: Runs = Path("runs"), device: Device = None) -> None:
    """Compare all methods on embedded data, in minutes."""
    from kdbench.protocol import load_protocol  # noqa: PLC0415
    from kdbench.session import Session  # noqa: PLC0415

    session = Session.open("digits-demo-v1", runs=runs, device=device)
    compare(session)
    real = load_protocol(session.protocol.try_next)
    teacher, student = real.try_pair.split(">")
    console.print("\nThe real thing, CIFAR-100 (a GPU is advised):")
    console.print(f"  kdbench teacher train --protocol {real.name} --network {teacher} --data data --download")
    pair = f"--teacher {teacher} --student {student}"
    console.print(f"  kdbench train --protocol {real.name} {pair} --method {real.try_methods[-1]} --seed 1 --data data")


@app.command()
def train(
    protocol: Protocol,
    student: Annotated[str, typer.Option(help="Network to train; 'kdbench list networks' names all.")],
    method: Annotated[str, typer.Option(help="How to distil; 'kdbench list methods' names all.")],
    teacher: Annotated[str | None, typer.Option(help="NETWORK, or NETWORK@HASH where there are several.")] = None,
    seed: Annotated[int, typer.Option(help="Decides initial weights, order and views.")] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A hyper-parameter of the method.", metavar="KEY=VALUE")
    ] = None,
    epochs: Epochs = None,
    precision: Precision = None,
    runs: Runs = Path("runs"),
    data: Data = "data",
    download: Download = False,
    device: Device = None,
    save_every: SaveEvery = 60.0,
) -> None:
    """Train one student, or go on where it was stopped."""
    from kdbench.registry import parse_settings  # noqa: PLC0415
    from kdbench.session import Session  # noqa: PLC0415

    chosen = parse_settings(settings or [])
    session = Session.open(
        protocol,
        runs=runs,
        data=data,
        epochs=epochs,
        precision=precision,
        device=device,
        download=download,
        save_every=save_every,
    )
    cell = session.cell(method=method, student=student, teacher=teacher, seed=seed, settings=chosen)
    if values := cell.settings.values():
        listed = ", ".join(f"{key} = {value}" for key, value in values.items())
        console.print(f"{cell.method}: {listed} ({cell.settings.source})", markup=False)
    record = run_shown(session, [cell])[0]
    units = {"top1": " %", "top5": " %", "nll": "", "ece": " %", "agreement": " %", "teacher_kl": ""}
    for name, unit in units.items():
        if name in record:
            console.print(f"  {name:<11}{record[name]:8.3f}{unit}")
    console.print(f"record: {cell.folder(runs) / 'record.json'}")


@teacher_app.command("train")
def teacher_train(
    protocol: Protocol,
    network: Network,
    seed: Annotated[int, typer.Option(help="The teacher's own seed.")] = 0,
    epochs: Epochs = None,
    precision: Precision = None,
    runs: Runs = Path("runs"),
    data: Data = "data",
    download: Download = False,
    device: Device = None,
    save_every: SaveEvery = 60.0,
) -> None:
    """Train a network alone and make it a teacher."""
    from kdbench.session import Session  # noqa: PLC0415

    session = Session.open(
        protocol,
        runs=runs,
        data=data,
        epochs=epochs,
        precision=precision,
        device=device,
        download=download,
        save_every=save_every,
    )
    card = train_teacher_shown(session, network, seed)
    console.print(f"teacher {card.spec}: {card.accuracy:.2f} % on the test set of {card.dataset}")


@teacher_app.command("import")
def teacher_import(
    file: Annotated[Path, typer.Argument(help="A checkpoint of mdistiller or RepDistiller, or safetensors.")],
    protocol: Protocol,
    network: Network,
    accuracy: Annotated[float | None, typer.Option(help="Its expected test top-1 in percent.")] = None,
    runs: Runs = Path("runs"),
    data: Data = "data",
    download: Download = False,
    device: Device = None,
) -> None:
    """Import a checkpoint as a teacher, after measuring it."""
    from kdbench.session import Session  # noqa: PLC0415

    session = Session.open(protocol, runs=runs, data=data, device=device, download=download)
    card = session.import_teacher(file, network, expected=accuracy)
    checked = "not checked: none is known" if card.expected is None else f"expected {card.expected:.2f} %"
    console.print(f"teacher {card.spec}: {card.accuracy:.2f} % on the test set of {card.dataset} ({checked})")


@teacher_app.command("list")
def teacher_list(protocol: Annotated[str | None, typer.Option()] = None, runs: Runs = Path("runs")) -> None:
    """List the teachers that are there."""
    from kdbench.protocol import load_protocol, protocol_names  # noqa: PLC0415
    from kdbench.teachers import list_teachers  # noqa: PLC0415

    names = [load_protocol(protocol).name] if protocol else protocol_names()
    cards = [(name, card) for name in names for card in list_teachers(runs, name)]
    if not cards:
        console.print(f"no teachers in {runs}: 'kdbench teacher train' or 'kdbench teacher import' makes one")
        return
    print_rows(
        [
            {
                "protocol": name,
                "teacher": c.spec,
                "data": c.dataset,
                "top-1 %": f"{c.accuracy:.2f}",
                "origin": c.origin,
            }
            for name, c in cards
        ]
    )


@data_app.command("subset")
def data_subset(
    dataset: Annotated[str, typer.Argument(help="'kdbench list datasets' names all.")],
    out: Annotated[Path, typer.Argument(help="The npz file to write.")],
    train_per_class: Annotated[int, typer.Option(help="Training images of each class, the first in file order.")],
    test_per_class: Annotated[int, typer.Option(help="Test images of each class, the first in file order.")],
    data: Data = "data",
    download: Download = False,
) -> None:
    """Write the first so many images of each class into one npz file."""
    from kdbench.data.datasets import load_dataset, save_npz, subset  # noqa: PLC0415

    part = subset(load_dataset(dataset, Path(data), download=download), train_per_class, test_per_class)
    save_npz(part, out)
    console.print(f"{out}: {len(part.train_labels)} training and {len(part.test_labels)} test images")
    console.print(f"fingerprint {part.fingerprint}\nuse it with --data npz:{out}")


@app.command()
def table(
    runs: Annotated[Path, typer.Argument(help="Folder of runs.")] = Path("runs"),
    form: Annotated[Literal["terminal", "markdown", "csv"], typer.Option("--format")] = "terminal",
) -> None:
    """Print the finished cells as tables."""
    from kdbench.runs import read_records  # noqa: PLC0415
    from kdbench.tables import comparisons, render  # noqa: PLC0415

    records = read_records(runs)
    tables = comparisons(records.frame)
    if not tables:
        raise UserError(f"no finished cells in {runs}: 'kdbench demo' or 'kdbench train' makes some")
    console.print("\n".join(render(t, form) for t in tables), markup=False, end="")
    if records.unfinished:
        sys.stderr.write(f"{records.unfinished} cells are begun and not finished\n")
    if records.problems:
        raise UserError("; ".join(records.problems))


@app.command("list")
def list_(
    what: Annotated[Literal["methods", "networks", "datasets", "protocols", "pairs"], typer.Argument()],
) -> None:
    """List what kdbench knows."""
    from kdbench.show import LISTS  # noqa: PLC0415

    print_rows(LISTS[what]())


@app.command()
def show(method: str) -> None:
    """Print a method's paper, idea, settings with their sources, and where paper and code differ."""
    from kdbench.show import method_page  # noqa: PLC0415

    console.print(method_page(method), markup=False)


def compare(session: Session) -> None:
    """Run the comparison that a protocol proposes, and print its table."""
    from kdbench.runs import as_frame  # noqa: PLC0415
    from kdbench.tables import comparisons, render  # noqa: PLC0415

    teacher, student = session.protocol.try_pair.split(">")
    train_teacher_shown(session, teacher, seed=0)
    cells = [
        session.cell(method=method, student=student, teacher=teacher, seed=seed)
        for method in session.protocol.try_methods
        for seed in session.protocol.try_seeds
    ]
    for found in comparisons(as_frame(run_shown(session, cells))):
        console.print(f"\n{render(found, 'terminal')}", markup=False, end="")
    console.print(
        f"\nRecords: {session.runs / session.protocol.name}; 'kdbench table {session.runs}' prints them again."
    )


def run_shown(session: Session, cells: list[Cell]) -> list[dict[str, Any]]:
    """Run cells one after another, with their progress on the screen."""
    from kdbench.display import Display  # noqa: PLC0415
    from kdbench.runs import read_record  # noqa: PLC0415

    records = []
    with Display(console) as display:
        for cell in cells:
            found = read_record(cell.folder(session.runs), cell)
            record = found or session.run(cell, display.observer(cell))
            display.done(cell, record, found=found is not None)
            records.append(record)
    return records


def train_teacher_shown(session: Session, network: str, seed: int) -> TeacherCard:
    """Train a teacher, or find it, with its progress on the screen."""
    run_shown(session, [session.cell(method=session.protocol.alone, student=network, seed=seed)])
    return session.train_teacher(network, seed=seed)


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    from tabulate import tabulate  # noqa: PLC0415

    console.print(tabulate(rows, headers="keys", disable_numparse=True), markup=False)


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    # Threads that wait long by spinning make a busy machine many times slower; read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"kdbench: {error}\n")
        sys.exit(2)
    except Interrupted as stopped:
        sys.stderr.write(f"kdbench: {stopped}\n")
        sys.exit(128 + stopped.signum)
