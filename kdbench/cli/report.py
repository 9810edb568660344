"""``kdbench report``: tables, plots and every cell as one HTML file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.tables import Methods, Pairs, ProtocolName, Runs, comparisons


def report(
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder of the report; made where there is none.", metavar="DIR")] = Path(
        "report"
    ),
    methods: Methods = None,
    pairs: Pairs = None,
    protocol: ProtocolName = None,
) -> None:
    """Write one HTML file with tables, plots and every cell, and the plots as SVG and PDF."""
    from rich.console import Console
    from rich.progress import Progress

    from kdbench.analysis.report import write_report

    # Without --out: where a report lies changes nothing in it.
    chosen = (("--protocol", [protocol] if protocol else []), ("--methods", methods), ("--pairs", pairs))
    typed = [
        "kdbench",
        "report",
        str(runs),
        *(word for name, own in chosen for one in own or [] for word in (name, one)),
    ]
    with comparisons(runs, protocol, methods, pairs) as (found, records):
        terminal = Console(stderr=True)
        with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as shown:
            task = shown.add_task("reading", total=1.0)
            paths = write_report(
                runs,
                out,
                found,
                records,
                command=shlex.join(typed),
                tell=lambda what, part: shown.update(task, completed=part, description=what),
            )
        sys.stdout.write(f"{paths[0]}\n")
