"""``kdbench report``: an HTML report with tables, plots and every cell."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

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


def report(
    runs: RunsArgument = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder of the report; created if missing.", metavar="DIR")] = Path(
        "report"
    ),
    methods: MethodsOption = None,
    pairs: PairsOption = None,
    protocol: ProtocolFilter = None,
    rules: RulesOption = None,
) -> None:
    """Write an HTML report with tables, plots and every cell.

    The plots are written as SVG and PDF files as well.
    """
    from rich.console import Console

    from kdbench.analysis.report import write_report

    # Without --out: the folder of the report must not change the report.
    named = [] if protocol is None else [protocol]
    options = (("--protocol", named), ("--rules", rules), ("--methods", methods), ("--pairs", pairs))
    words = [word for option, values in options for value in values or [] for word in (option, value)]
    selection = read_selection(runs, protocol=protocol, rules=rules, methods=methods, pairs=pairs)
    terminal = Console(stderr=True)
    with progress_bar(terminal) as progress:
        task = progress.add_task("reading", total=1.0)
        paths = write_report(
            runs,
            out,
            selection.comparisons,
            selection.records,
            command=shlex.join(["kdbench", "report", str(runs), *words]),
            on_progress=lambda work, done: progress.update(task, completed=done, description=work),
        )
    echo(str(paths[0]))
    selection.finish()
