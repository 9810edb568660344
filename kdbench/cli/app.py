"""All commands, and how each ends."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli import (
    bench,
    cache,
    comparing,
    data,
    demo,
    evaluate,
    export,
    grid,
    merge,
    own,
    plot,
    publish,
    report,
    search,
    show,
    tables,
    teacher,
    track,
    train,
    verify,
)
from kdbench.cli.options import echo
from kdbench.cli.output import unexpected, write_error
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.own_folders import METHODS, OWN, add
from kdbench.utils.platform import check_platform

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
    comparing.compare,
    comparing.claims,
    search.search,
    report.report,
    plot.plot,
    merge.merge,
    evaluate.eval_,
    export.export,
    track.track,
    publish.publish,
    publish.site,
    verify.verify,
    bench.bench,
    show.list_,
    show.show,
    own.new,
    own.validate,
):
    app.command(command.__name__.rstrip("_"))(command)
for name, group in (("teacher", teacher.app), ("data", data.app), ("cache", cache.app), ("grid", grid.app)):
    app.add_typer(group, name=name)


def _print_version(asked: bool) -> None:
    if asked:
        echo(f"kdbench {metadata.version('kdbench')}")
        raise typer.Exit


@app.callback()
def everywhere(
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    methods: Annotated[
        list[Path] | None,
        typer.Option(
            help=f"Folder with your own methods; may be repeated. Added to the folders of ${METHODS}.",
            metavar="DIR",
        ),
    ] = None,
    own: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder with folders methods, networks and protocols of your own; may be repeated. Added to the "
            f"folders of ${OWN}.",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Compare knowledge-distillation methods head to head."""
    add(METHODS, methods or [])
    add(OWN, own or [])


def run() -> int:
    """Run the command that was typed, and return its exit code; what went wrong is a line on standard error."""
    try:
        check_platform()
        app()
    except SystemExit as end:
        return int(end.code or 0)
    except UserError as error:
        write_error(str(error))
        return 2
    except Interrupted as stopped:
        write_error(str(stopped))
        return 128 + stopped.signum
    except OSError as error:
        # A path that was typed and that the system does not take, such as too long a name or a folder without rights.
        is_path = error.filename and not isinstance(error, FileNotFoundError | FileExistsError)
        write_error(
            f"cannot use {error.filename}: {error.strerror}; give another path" if is_path else unexpected(error)
        )
        return 2 if is_path else 1
    except Exception as error:  # the last net: what users can cause is a UserError
        write_error("stopped" if _is_interrupt(error) else unexpected(error))
        return 130 if _is_interrupt(error) else 1
    return 0


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether Ctrl-C is behind an error: a package that is being imported may turn it into another one."""
    return error is not None and (
        isinstance(error, KeyboardInterrupt) or _is_interrupt(error.__cause__ or error.__context__)
    )
