"""``kdbench report``: an HTML report with tables, plots and every cell."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import echo, progress_bar
from kdbench.cli.selection import (
    FamiliesOption,
    MethodsOption,
    NamesOption,
    PairsOption,
    ProtocolFilter,
    RulesOption,
    RunsArgument,
    WithoutFamiliesOption,
    read_selection,
)


def report(
    runs: RunsArgument = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder of the report; created if missing.", metavar="DIR")] = Path(
        "report"
    ),
    names: NamesOption = "typed",
    methods: MethodsOption = None,
    families: FamiliesOption = None,
    without_families: WithoutFamiliesOption = None,
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
    options = (
        ("--protocol", [] if protocol is None else [protocol]),
        ("--rules", rules),
        ("--names", [] if names == "typed" else [names]),
        ("--methods", methods),
        ("--families", families),
        ("--without-families", without_families),
        ("--pairs", pairs),
    )
    words = [word for option, values in options for value in values or [] for word in (option, value)]
    selection = read_selection(
        runs,
        protocol=protocol,
        rules=rules,
        methods=methods,
        families=families,
        without_families=without_families,
        pairs=pairs,
        names=names,
    )
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
