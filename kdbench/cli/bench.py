"""``kdbench bench``: how fast this machine is."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from kdbench.cli.options import DEMO, Compile, Device, Epochs, Precision, console


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

    from kdbench.analysis.tables.render import render  # noqa: PLC0415
    from kdbench.cli import bench_table  # noqa: PLC0415
    from kdbench.data.datasets import random_dataset  # noqa: PLC0415
    from kdbench.engine import bench as timing  # noqa: PLC0415
    from kdbench.engine.run import Options  # noqa: PLC0415
    from kdbench.experiment.pairs import named_pairs  # noqa: PLC0415
    from kdbench.experiment.protocol import load_protocol  # noqa: PLC0415
    from kdbench.experiment.registry import method_name  # noqa: PLC0415
    from kdbench.models import parse_pair  # noqa: PLC0415
    from kdbench.utils.device import pick_device, processor  # noqa: PLC0415

    rules = load_protocol(protocol or load_protocol(DEMO).demo.next).override(epochs=epochs, precision=precision)
    chosen = pick_device(device, compiling=compile_)
    sets = named_pairs()
    words = pairs or [rules.demo.pair]
    chosen_pairs = [p for word in words for p in (sets[word].pairs if word in sets else (parse_pair(word),))]
    methods = [method_name(name) for name in method or rules.demo.methods]
    dataset = random_dataset(rules.dataset)
    with tempfile.TemporaryDirectory(prefix="kdbench-") as scratch, Progress(console=console, transient=True) as shown:
        folder = Path(scratch)
        for pair in chosen_pairs:
            options = Options(runs=folder, device=chosen, compile=compile_)
            measured = timing.Bench(rules, dataset, pair, folder, options)
            task = shown.add_task(str(pair), total=len(methods))
            rows, teacher = timing.measure(
                measured,
                methods,
                rounds,
                lambda name, part, task=task, pair=pair: shown.update(  # type: ignore[misc]
                    task, completed=methods.index(name) + part, description=f"{pair}: {name}"
                ),
            )
            shown.remove_task(task)
            table = bench_table.table(measured, rows, teacher, seeds, processor(chosen))
            sys.stdout.write(render([table], form) + "\n")
