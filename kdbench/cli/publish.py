"""``kdbench publish`` and ``kdbench site``: results for others to see, and a page of those that others published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import console, echo, next_command, progress_bar, spinner
from kdbench.cli.selection import RunsArgument, end_with_problems


def publish(
    context: typer.Context,
    runs: RunsArgument = Path("runs"),
    *,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder to publish: a new one, or one that was published, which gets the cells.", metavar="DIR"
        ),
    ],
    by: Annotated[
        str | None, typer.Option(help="Who publishes: a name, a group, an address. [default: as before, else nobody]")
    ] = None,
) -> None:
    """Write finished cells into a folder for a pull request to a repository of results.

    It holds records, configurations, metrics by epoch, a statement of hardware, a README and the hash of every file; no
    weights, no predictions (their hash is in the records), and nothing that names this machine; searches of settings
    come with what they chose. Damaged records, and
    those of own methods and networks whose code has changed under its VERSION, are left out with a line each. Repeated,
    it changes nothing.
    """
    from kdbench.analysis.publishing.making import publish as write
    from kdbench.errors import UserError
    from kdbench.utils.text import counted

    if by is not None and not (by.isprintable() and 0 < len(by.strip()) <= 200):
        raise UserError("--by takes a line of 1 to 200 characters")
    with spinner(console()) as progress:
        progress.add_task(f"reading {runs}")
        published = write(runs, out, by)
    replaced = f", {published.replaced:,} replaced by other results" if published.replaced else ""
    searches = f"; {counted(published.searches, 'search')}" if published.searches else ""
    echo(f"{out}: {counted(published.cells, 'cell')}, {published.added:,} added{replaced}{searches}")
    echo(f"type {next_command(context, 'leaderboard', out)} to read it as others will")
    end_with_problems(published.left_out)


def site(
    folders: Annotated[list[Path], typer.Argument(help="Folders that 'kdbench publish' wrote.", metavar="FOLDER...")],
    out: Annotated[Path, typer.Option(help="Folder of the page; created if missing.", metavar="DIR")] = Path("site"),
) -> None:
    """Write a static page of published folders: a leaderboard, who published what on which hardware, and the report.

    Each folder is checked with its hashes. The page fetches nothing, and its links are relative: it can be served from
    anywhere, and opens from disk.
    """
    from rich.console import Console

    from kdbench.analysis.publishing.site import write_site

    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("reading", total=1.0)
        page = write_site(
            folders, out, on_progress=lambda work, done: progress.update(task, completed=done, description=work)
        )
    echo(str(page))
