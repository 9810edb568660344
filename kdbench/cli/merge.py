"""``kdbench merge``: bring finished cells from other folders of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import RunsOption, console, echo, next_command, spinner


def merge(
    context: typer.Context,
    sources: Annotated[list[Path], typer.Argument(help="Folders of runs to bring cells from.", metavar="DIR...")],
    runs: RunsOption = Path("runs"),
) -> None:
    """Bring finished cells of other folders of runs, such as another machine's, into yours.

    Their teachers come with them, and the searches of settings with their choices. Each is checked, and nothing that is
    there is changed; a choice that differs is named, and yours stays.
    """
    from kdbench.grid import merging
    from kdbench.utils.text import counted

    progress = spinner(console())
    for source in sources:
        with progress:
            task = progress.add_task(str(source))
            merged = merging.merge(source, runs)
            progress.remove_task(task)
        for line in merged.left_out:
            echo(f"warning: {line}")
        brought = [counted(merged.cells, "cell"), counted(merged.teachers, "teacher")]
        if merged.searches:
            brought.append(counted(merged.searches, "search"))
        if merged.starts:
            brought.append(f"{counted(merged.starts, 'file')} of weights to start from")
        there = f"; {merged.there:,} were there already" if merged.there else ""
        left_out = f"; {len(merged.left_out):,} left out" if merged.left_out else ""
        echo(f"{source}: {', '.join(brought)} brought into {runs}{there}{left_out}")
    echo(f"type {next_command(context, 'table', runs)} to compare them")
