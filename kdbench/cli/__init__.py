"""The command line."""

from __future__ import annotations

import os
import sys

import typer

from kdbench.cli import cache, data, grid, look, report, tables, teacher, train
from kdbench.errors import Interrupted, UserError

app = typer.Typer(
    help="Head-to-head benchmarks of knowledge-distillation methods.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    train.demo,
    train.train,
    tables.table,
    tables.leaderboard,
    tables.compare,
    tables.claims,
    report.report,
    look.bench,
    look.list_,
    look.show,
):
    app.command(command.__name__.rstrip("_"))(command)
for name, group in (("teacher", teacher.app), ("data", data.app), ("cache", cache.app), ("grid", grid.app)):
    app.add_typer(group, name=name)


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    # Threads that wait long by spinning make a busy machine many times slower; read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"kdbench: {error}\n")
        sys.exit(2)
    except Interrupted as stopped:
        sys.stderr.write(f"kdbench: {stopped}\n")
        sys.exit(128 + stopped.signum)
