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
    from kdbench.teacher_plan import CacheMode
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
cache_app = typer.Typer(help="Build, list and delete caches of teacher outputs.", no_args_is_help=True)
app.add_typer(teacher_app, name="teacher")
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
console = Console(highlight=False, soft_wrap=True)

Protocol = Annotated[str, typer.Option(help="Training rules; 'kdbench list protocols' names all.")]
Runs = Annotated[Path, typer.Option(help="Folder of runs.", metavar="DIR")]
Data = Annotated[str, typer.Option(help="Folder of data sets, or one file.", metavar="DIR|npz:FILE")]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not there.")]
Epochs = Annotated[int | None, typer.Option(help="Train for so many epochs; the schedule keeps its shape.")]
Precision = Annotated[Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="Precision of the forward pass.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default a GPU where there is one.")]
SaveEvery = Annotated[float, typer.Option(help="Seconds between two saves of the state.")]
Cache = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(help="Teacher outputs from the cache: where it saves forward passes, always, or never."),
]
Compile = Annotated[bool, typer.Option("--compile", help="CUDA graphs on a GPU; a compiled student elsewhere.")]
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
    from kdbench.registry import method_name, parse_settings  # noqa: PLC0415
    from kdbench.session import Session  # noqa: PLC0415

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


@cache_app.command("build")
def cache_build(
    protocol: Protocol,
    teacher: Annotated[str, typer.Option(help="NETWORK, or NETWORK@HASH where there are several.")],
    method: Annotated[list[str], typer.Option(help="Which methods will read it; may be repeated.")],
    seed: Annotated[list[int] | None, typer.Option(help="Their seeds; may be repeated. [default: 1]")] = None,
    epochs: Epochs = None,
    precision: Precision = None,
    runs: Runs = Path("runs"),
    data: Data = "data",
    download: Download = False,
    device: Device = None,
) -> None:
    """Ask a teacher for every view that some methods and seeds will visit, once, and keep what it says."""
    from kdbench.display import Display  # noqa: PLC0415
    from kdbench.models import canonical_network  # noqa: PLC0415
    from kdbench.session import Session  # noqa: PLC0415
    from kdbench.teacher_plan import Demand, Wanted  # noqa: PLC0415

    session = Session.open(
        protocol, runs=runs, data=data, epochs=epochs, precision=precision, device=device, download=download
    )
    card = session.teacher_card(teacher, canonical_network(teacher.partition("@")[0]))
    cells = [
        session.cell(method=name, student=card.network, teacher=card.spec, seed=number)
        for name in method
        for number in seed or [1]
    ]
    if maps := {cell.method for cell in cells if not Wanted.by(cell).cacheable}:
        raise UserError(f"method {', '.join(sorted(maps))} reads feature maps, which are not kept: leave it out")
    with Display(console) as display:
        cache = Demand.of(session, card, [Wanted.by(cell) for cell in cells]).build(session, display)
    console.print(f"cache {cache.folder} has all that {', '.join(dict.fromkeys(c.method for c in cells))} will ask for")


@cache_app.command("list")
def cache_list(runs: Runs = Path("runs")) -> None:
    """List the caches that are there."""
    from kdbench.teacher_cache import list_caches, size  # noqa: PLC0415

    caches = list_caches(runs)
    if not caches:
        console.print(
            f"no teacher caches in {runs}: 'kdbench cache build' makes one, and 'kdbench train' where it pays"
        )
        return
    print_rows(
        [
            {
                "cache": c.name,
                "teacher": f"{c.identity.network} {c.identity.weights[:8]}" if c.identity else "unreadable",
                "precision": c.identity.precision if c.identity else "",
                "views": f"{c.pairs:,}",
                "kept": ", ".join(c.parts),
                "segments": c.segments,
                "unfinished": c.unfinished,
                "size": size(c.bytes),
            }
            for c in caches
        ]
    )


@cache_app.command("prune")
def cache_prune(
    names: Annotated[
        list[str] | None, typer.Argument(help="Caches to delete; 'kdbench cache list' names them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete all caches.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Delete caches; without names, those whose teacher is gone and builds that were never finished."""
    from kdbench.protocol import protocol_names  # noqa: PLC0415
    from kdbench.teacher_cache import list_caches, remove_cache, size  # noqa: PLC0415
    from kdbench.teachers import list_teachers  # noqa: PLC0415

    caches = {c.name: c for c in list_caches(runs)}
    if unknown := sorted(set(names or []) - caches.keys()):
        raise UserError(f"no cache {', '.join(unknown)} in {runs}: 'kdbench cache list' names those that are there")
    weights = {card.weights for name in protocol_names() for card in list_teachers(runs, name)}
    freed = 0
    for name, cache in caches.items():
        orphaned = cache.identity is None or cache.identity.weights not in weights
        whole = everything or name in (names or []) or (not names and orphaned)
        if not whole and (names or not cache.unfinished):
            continue
        found = remove_cache(runs, name, unfinished_only=not whole)
        if found is None:
            console.print(f"{name} is in use: left alone")
        else:
            console.print(f"{name}: {'deleted' if whole else 'unfinished builds deleted'}, {size(found)}")
            freed += found
    console.print(f"{size(freed)} freed")


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


@app.command()
def bench(
    pairs: Annotated[
        list[str] | None,
        typer.Argument(help="TEACHER>STUDENT, or a set of 'kdbench list pairs'. [default: the protocol's first]"),
    ] = None,
    protocol: Protocol = "cifar100-crd-v1",
    method: Annotated[list[str] | None, typer.Option(help="May be repeated. [default: the protocol's]")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of the grid whose hours are estimated.", min=1)] = 5,
    rounds: Annotated[int, typer.Option(help="Steps of each work that are timed.", min=1)] = 10,
    epochs: Epochs = None,
    precision: Precision = None,
    device: Device = None,
    compile_: Compile = False,
    form: Annotated[Literal["terminal", "markdown", "csv"], typer.Option("--format")] = "terminal",
) -> None:
    """Time this machine: steps of each method, live and cached, their parts, and the hours of a grid."""
    from rich.progress import Progress  # noqa: PLC0415

    from kdbench import bench as timing  # noqa: PLC0415
    from kdbench.data.datasets import random_dataset  # noqa: PLC0415
    from kdbench.device import check_compile, pick_device, processor  # noqa: PLC0415
    from kdbench.models import parse_pair  # noqa: PLC0415
    from kdbench.protocol import load_protocol, named_pairs  # noqa: PLC0415
    from kdbench.registry import method_name  # noqa: PLC0415
    from kdbench.run import Options  # noqa: PLC0415
    from kdbench.tables import render  # noqa: PLC0415

    rules = load_protocol(protocol).override(epochs=epochs, precision=precision)
    chosen = pick_device(device)
    if compile_:
        check_compile(chosen)
    sets = named_pairs()
    wanted = [pair for word in pairs or [rules.try_pair] for pair in (sets[word].pairs if word in sets else (word,))]
    found = [parse_pair(pair) for pair in wanted]
    methods = [method_name(name) for name in method or rules.try_methods]
    dataset = random_dataset(rules.dataset)
    with timing.scratch() as folder, Progress(console=console, transient=True) as shown:
        for pair in found:
            options = Options(runs=folder, device=chosen, compile=compile_)
            measured = timing.Bench(rules, dataset, pair, folder, options)
            task = shown.add_task(pair, total=len(methods))
            rows, teacher = timing.measure(
                measured,
                methods,
                rounds,
                lambda name, part, task=task, pair=pair: shown.update(  # type: ignore[misc]
                    task, completed=methods.index(name) + part, description=f"{pair}: {name}"
                ),
            )
            shown.remove_task(task)
            table = timing.table(measured, rows, teacher, seeds, processor(chosen))
            console.print(render(table, form), markup=False)


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


def run_shown(
    session: Session, cells: list[Cell], *, cache: CacheMode = "auto", together: int | None = None
) -> list[dict[str, Any]]:
    """Run cells with their progress on the screen, and return their records.

    Raises
    ------
    UserError
        Some failed; the others are done.
    """
    from kdbench.display import Display  # noqa: PLC0415
    from kdbench.runs import read_record  # noqa: PLC0415

    records = []
    with Display(console) as display:
        found = {cell.id for cell in cells if read_record(cell.folder(session.runs), cell)}
        outcomes = session.run_all(cells, display.observer, cache=cache, together=together, watch=display)
        for cell, outcome in zip(cells, outcomes, strict=True):
            if not isinstance(outcome, Exception):
                display.done(cell, outcome, found=cell.id in found)
                records.append(outcome)
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    for failure in failures:
        if not isinstance(failure, UserError):
            raise failure
    if failures:
        raise UserError("\nkdbench: ".join(dict.fromkeys(map(str, failures))))
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
