"""``kdbench bench``, ``list`` and ``show``: what is there, and how fast it is."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from kdbench.cli.options import DEMO, Compile, Device, Epochs, Precision, console, print_rows
from kdbench.errors import UserError


def bench(
    pairs: Annotated[
        list[str] | None,
        typer.Argument(help="TEACHER>STUDENT, or a set of 'kdbench list pairs'. [default: the protocol's first]"),
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Training rules. [default: those after the demo's]")] = None,
    method: Annotated[list[str] | None, typer.Option(help="May be repeated. [default: the protocol's]")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of the grid whose hours are estimated.", min=1)] = 5,
    rounds: Annotated[int, typer.Option(help="Steps of each work that are timed.", min=1)] = 10,
    epochs: Epochs = None,
    precision: Precision = None,
    device: Device = None,
    compile_: Compile = False,
    form: Annotated[Literal["terminal", "markdown", "latex", "csv"], typer.Option("--format")] = "terminal",
) -> None:
    """Time this machine: steps of each method, live and cached, their parts, and the hours of a grid."""
    from rich.progress import Progress  # noqa: PLC0415

    from kdbench.analysis.tables.table import render  # noqa: PLC0415
    from kdbench.data.datasets import random_dataset  # noqa: PLC0415
    from kdbench.engine import bench as timing  # noqa: PLC0415
    from kdbench.engine.run import Options  # noqa: PLC0415
    from kdbench.experiment.protocol import load_protocol, named_pairs  # noqa: PLC0415
    from kdbench.experiment.settings import method_name  # noqa: PLC0415
    from kdbench.models import parse_pair  # noqa: PLC0415
    from kdbench.utils.device import pick_device, processor  # noqa: PLC0415

    rules = load_protocol(protocol or load_protocol(DEMO).demo.next).override(epochs=epochs, precision=precision)
    chosen = pick_device(device, compiling=compile_)
    sets = named_pairs()
    wanted = [pair for word in pairs or [rules.demo.pair] for pair in (sets[word].pairs if word in sets else (word,))]
    found = [parse_pair(pair) for pair in wanted]
    methods = [method_name(name) for name in method or rules.demo.methods]
    dataset = random_dataset(rules.dataset)
    with tempfile.TemporaryDirectory(prefix="kdbench-") as scratch, Progress(console=console, transient=True) as shown:
        folder = Path(scratch)
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
            sys.stdout.write(render([table], form) + "\n")


def list_(
    what: Annotated[Literal["methods", "networks", "datasets", "protocols", "pairs"], typer.Argument()],
    pair: Annotated[
        str | None, typer.Option(help="Of methods: what they train beside this student.", metavar="TEACHER>STUDENT")
    ] = None,
) -> None:
    """List what kdbench knows, and methods of your own."""
    from kdbench.cli.catalogue import LISTS, methods  # noqa: PLC0415
    from kdbench.experiment.protocol import load_protocol  # noqa: PLC0415
    from kdbench.models import parse_pair  # noqa: PLC0415

    if what != "methods":
        if pair:
            raise UserError(f"--pair is for 'kdbench list methods', not for {what}")
        print_rows(LISTS[what]())
        return
    rules = load_protocol(load_protocol(DEMO).demo.next)
    rows, remarks = methods(parse_pair(pair) if pair else None, rules)
    print_rows(rows)
    if pair or remarks:
        console.print()
    if pair:
        console.print(f"extra parameters: trained beside the student of {parse_pair(pair)}, as in {rules.name}")
    for remark in remarks:
        console.print(remark, markup=False)


def show(method: str) -> None:
    """Print a method's paper, idea, settings with their sources, and where paper and code differ."""
    from kdbench.cli.catalogue import method_page  # noqa: PLC0415

    console.print(method_page(method), markup=False)
