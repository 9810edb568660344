"""The command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli import bench, cache, data, demo, grid, own, report, show, tables, teacher, train
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.user_methods import FOLDERS, add_folders
from kdbench.utils.platform import check_platform
from kdbench.utils.text import message_line

_OLD_NAMES = {"together": "lockstep"}
"""Earlier names of options, which scripts may still use."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"token_normalize_func": lambda name: _OLD_NAMES.get(name, name)},
)
for command in (
    demo.demo,
    train.train,
    tables.table,
    tables.leaderboard,
    tables.compare,
    tables.claims,
    report.report,
    bench.bench,
    show.list_,
    show.show,
    own.new,
    own.validate,
):
    app.command(command.__name__.rstrip("_"))(command)
for name, group in (("teacher", teacher.app), ("data", data.app), ("cache", cache.app), ("grid", grid.app)):
    app.add_typer(group, name=name)


@app.callback()
def everywhere(
    methods: Annotated[
        list[Path] | None,
        typer.Option(
            help=f"Folder with your own methods; may be repeated. Added to the folders of ${FOLDERS}.",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Compare knowledge-distillation methods head to head."""
    add_folders(methods or [])


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    # Threads that wait long by spinning make a busy machine many times slower; read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        check_platform()
        app()
    except UserError as error:
        sys.stderr.write(f"kdbench: {message_line(str(error))}\n")
        sys.exit(2)
    except Interrupted as stopped:
        sys.stderr.write(f"kdbench: {stopped}\n")
        sys.exit(128 + stopped.signum)
