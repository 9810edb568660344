"""``kdbench plot``: the pictures that papers print, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kdbench.cli.options import echo, progress_bar
from kdbench.cli.selection import (
    MethodsOption,
    PairsOption,
    ProtocolFilter,
    RulesOption,
    RunsArgument,
    read_selection,
)
from kdbench.errors import UserError

Name = Literal[
    "differences", "cost", "ranks", "top1", "loss", "losses", "classes", "reliability", "correlation", "tsne"
]


def plot(
    name: Annotated[Name, typer.Argument(help="Picture to draw.")],
    runs: RunsArgument = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder of the files; created if missing.", metavar="DIR")] = Path("plots"),
    form: Annotated[
        Literal["svg", "pdf"] | None, typer.Option("--format", help="Format of the files. [default: both]")
    ] = None,
    methods: MethodsOption = None,
    pairs: PairsOption = None,
    protocol: ProtocolFilter = None,
    rules: RulesOption = None,
) -> None:
    """Draw a picture of finished cells as SVG and PDF files for a paper.

    One file for all pairs: 'cost', accuracy against GPU-hours, coloured by family; 'differences' to the student-only
    baseline; 'ranks', the critical-difference diagram.

    One file for each pair: 'top1' and 'loss' by epoch; 'losses', each term of the loss by epoch; 'classes', gains over
    the baseline by class; 'reliability', accuracy by confidence; 'correlation', how the logits of classes correlate in
    student and teacher; 'tsne' of penultimate features.

    They are those of 'kdbench report', under the same names.
    """
    from rich.console import Console

    from kdbench.analysis.plots.written import write_plots

    selection = read_selection(runs, protocol=protocol, rules=rules, methods=methods, pairs=pairs)
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("reading", total=1.0)
        paths, reasons = write_plots(
            name,
            selection.comparisons,
            selection.records.frame,
            out,
            (form,) if form else ("svg", "pdf"),
            on_progress=lambda work, done: progress.update(task, completed=done, description=work),
        )
    if not paths:
        raise UserError(reasons[0])
    for path in paths:
        echo(str(path))
    selection.remarks.extend(reasons)
    selection.finish()
