"""``kdbench report``: an HTML report with tables, plots and every cell."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.tables import Methods, Pairs, ProtocolName, Runs, read_comparisons, report_incomplete


def report(
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder of the report; created if missing.", metavar="DIR")] = Path(
        "report"
    ),
    methods: Methods = None,
    pairs: Pairs = None,
    protocol: ProtocolName = None,
) -> None:
    """Write an HTML report with tables, plots and every cell.

    The plots are written as SVG and PDF files as well.
    """
    from rich.console import Console
    from rich.progress import Progress

    from kdbench.analysis.report import write_report

    # Without --out: the folder of the report must not change the report.
    options = (("--protocol", [protocol] if protocol else []), ("--methods", methods), ("--pairs", pairs))
    selection = [word for option, values in options for value in values or [] for word in (option, value)]
    comparisons, records = read_comparisons(runs, protocol, methods, pairs)
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("reading", total=1.0)
        paths = write_report(
            runs,
            out,
            comparisons,
            records,
            command=shlex.join(["kdbench", "report", str(runs), *selection]),
            on_progress=lambda work, done: progress.update(task, completed=done, description=work),
        )
    sys.stdout.write(f"{paths[0]}\n")
    report_incomplete(records)
