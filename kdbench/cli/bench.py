"""``kdbench bench``: time this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdbench.cli.options import (
    DEMO,
    CompileOption,
    DeviceOption,
    EpochsOption,
    PrecisionOption,
    WorkersOption,
    console,
    echo,
    print_tables,
    progress_bar,
)
from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.data.decoding.streamed import StreamedDataset
    from kdbench.experiment.protocol import Protocol


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
    data: Annotated[
        str | None,
        typer.Option(
            help="Image files that are decoded while methods are timed: folder:DIR, imagenet:DIR, tinyimagenet:DIR, "
            "tar:DIR, hfds:NAME.",
            metavar="KIND:DIR",
        ),
    ] = None,
    workers: WorkersOption = None,
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
    Images are noise that takes no time to read; with --data, each method is timed on image files as well.
    """
    from kdbench.cli import bench_table
    from kdbench.data.fabricated import fabricated
    from kdbench.engine.bench import Bench
    from kdbench.engine.bench_methods import measure
    from kdbench.engine.loading import loading_seconds
    from kdbench.engine.options import Options
    from kdbench.experiment.pairs import named_pairs
    from kdbench.experiment.protocol import load_protocol
    from kdbench.experiment.registry import method_name
    from kdbench.models import parse_pair
    from kdbench.utils.device import pick_device, prepare_process, processor

    resolved = load_protocol(load_protocol(DEMO).demo.next if protocol is None else protocol).override(
        epochs=epochs, precision=precision
    )
    resolved, files = _with_files(resolved, data, workers)
    torch_device = prepare_process(pick_device(device, compiling=compile_))
    sets = named_pairs()
    pairs_to_time = [
        pair
        for name in pairs or [resolved.demo.pair]
        for pair in (sets[name].pairs if name in sets else (parse_pair(name),))
    ]
    methods = [method_name(name) for name in method or resolved.demo.methods]
    dataset = fabricated(resolved, files)
    progress, tables = progress_bar(console()), []
    with tempfile.TemporaryDirectory(prefix="kdbench-") as scratch, progress:
        folder = Path(scratch)
        for pair in pairs_to_time:
            options = Options(runs=folder, device=torch_device, compile=compile_)
            pair_bench = Bench(resolved, dataset, pair, folder, options)
            task = progress.add_task(str(pair), total=len(methods))
            rows, teacher = measure(
                pair_bench,
                methods,
                rounds,
                lambda name, part, task=task, pair=pair: progress.update(  # type: ignore[misc]
                    task, completed=methods.index(name) + part, description=f"{pair}: {name}"
                ),
                files,
            )
            progress.remove_task(task)
            loading = loading_seconds(files, resolved, torch_device) if files else None
            tables.append(bench_table.table(pair_bench, rows, teacher, seeds, processor(torch_device), loading))
            if form == "terminal":
                print_tables(tables[-1:], form)
                echo()
    if form != "terminal":  # one file
        print_tables(tables, form)


def _with_files(protocol: Protocol, data: str | None, workers: int | None) -> tuple[Protocol, StreamedDataset | None]:
    """Open the image files that are named, if any are, and name the protocol's data set by them."""
    from kdbench.data.decoding.streamed import StreamedDataset
    from kdbench.data.place import MAX_WORKERS, DataPlace
    from kdbench.utils.values import argument, whole_number

    if data is None:
        if workers is not None:
            raise UserError("--workers is of no use without --data: noise is not decoded")
        return protocol, None
    if protocol.rules.augmentation.crop != "resized":
        raise UserError(
            f"protocol {protocol.name} decodes no images while it trains: leave --data out, or type --protocol with "
            "one that does, such as imagenet-crd-v1"
        )
    if workers is not None:
        with argument("--workers"):
            whole_number(workers, 0, MAX_WORKERS)
    place = DataPlace.parse(data)
    files = place.open(protocol, download=False, num_workers=workers, report=echo)
    if not isinstance(files, StreamedDataset):
        raise UserError(f"--data {data} names no image files: type folder:DIR, imagenet:DIR, tar:DIR or hfds:NAME")
    return protocol.override(dataset=place.rule(files)), files
