"""``kdbench bench``: time this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from kdbench.cli.options import (
    DEMO,
    CompileOption,
    DeviceOption,
    EpochsOption,
    PrecisionOption,
    console,
    echo,
    print_tables,
    progress_bar,
)


def bench(
    pairs: Annotated[
        list[str] | None,
        typer.Argument(
            help="TEACHER>STUDENT, or a set of 'kdbench list pairs'. [default: a pair that the protocol names]"
        ),
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Training rules. [default: those of CIFAR-100]")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Method to time; may be repeated. [default: methods that the protocol names]"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds of the grid whose hours are estimated.", min=1)] = 5,
    rounds: Annotated[int, typer.Option(help="Number of timed steps of each method.", min=1)] = 10,
    epochs: EpochsOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    compile_: CompileOption = False,
    form: Annotated[
        Literal["terminal", "markdown", "latex", "csv"], typer.Option("--format", help="Format of the table.")
    ] = "terminal",
) -> None:
    """Time methods on this machine, and estimate a grid's hours.

    Each method is timed with a live teacher and with a cache, with the shares of data, teacher, student and loss.
    """
    from kdbench.cli import bench_table
    from kdbench.data.fabricated import fabricated
    from kdbench.engine import bench as timing
    from kdbench.engine.options import Options
    from kdbench.experiment.pairs import named_pairs
    from kdbench.experiment.protocol import load_protocol
    from kdbench.experiment.registry import method_name
    from kdbench.models import parse_pair
    from kdbench.utils.device import pick_device, prepare_process, processor

    resolved = load_protocol(load_protocol(DEMO).demo.next if protocol is None else protocol).override(
        epochs=epochs, precision=precision
    )
    torch_device = prepare_process(pick_device(device, compiling=compile_))
    sets = named_pairs()
    pairs_to_time = [
        pair
        for name in pairs or [resolved.demo.pair]
        for pair in (sets[name].pairs if name in sets else (parse_pair(name),))
    ]
    methods = [method_name(name) for name in method or resolved.demo.methods]
    dataset = fabricated(resolved)
    progress, tables = progress_bar(console()), []
    with tempfile.TemporaryDirectory(prefix="kdbench-") as scratch, progress:
        folder = Path(scratch)
        for pair in pairs_to_time:
            options = Options(runs=folder, device=torch_device, compile=compile_)
            pair_bench = timing.Bench(resolved, dataset, pair, folder, options)
            task = progress.add_task(str(pair), total=len(methods))
            rows, teacher = timing.measure(
                pair_bench,
                methods,
                rounds,
                lambda name, part, task=task, pair=pair: progress.update(  # type: ignore[misc]
                    task, completed=methods.index(name) + part, description=f"{pair}: {name}"
                ),
            )
            progress.remove_task(task)
            tables.append(bench_table.table(pair_bench, rows, teacher, seeds, processor(torch_device)))
            if form == "terminal":
                print_tables(tables[-1:], form)
                echo()
    if form != "terminal":  # one file
        print_tables(tables, form)
