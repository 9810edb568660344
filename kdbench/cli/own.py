"""``kdbench new`` and ``kdbench validate``: write and check your own method."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import DEMO, command_line, console, echo, print_rows, spinner
from kdbench.experiment.own_folders import folders_of


def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the method: lower-case letters, digits and _.")],
    folder: Annotated[
        Path, typer.Option("--dir", help="Folder to write it to; made if it does not exist.", metavar="DIR")
    ] = Path(),
) -> None:
    """Start your own method from a file that works as it is.

    Writes the file and a recipe file, and overwrites nothing.
    """
    from kdbench.experiment.pairs import Pair
    from kdbench.experiment.protocol import load_protocol
    from kdbench.experiment.templates import write_method

    for file in write_method(name, folder):
        echo(f"wrote {file}")
    protocol = load_protocol(DEMO)
    pair = Pair.parse(protocol.demo.pair)
    methods = [word for method in (*protocol.demo.methods[:2], name) for word in ("--method", method)]
    place = [] if folder.absolute() in folders_of("methods") else ["--methods", folder]
    echo("Change it, then type:")
    for words in (
        ("validate", name),
        ("teacher", "train", "--protocol", DEMO, "--network", pair.teacher),
        ("train", "--protocol", DEMO, "--teacher", pair.teacher, "--student", pair.student, *methods),
    ):
        echo(f"  {command_line(context, *place, *words)}")


def validate(method: Annotated[str, typer.Argument(help="Method; 'kdbench list methods' lists them.")]) -> None:
    """Check that a method follows the rules of all methods.

    Trains it for a few steps on small pairs; the exit code is 1 if a check fails.
    """
    from kdbench.engine.checks import validate as checking
    from kdbench.engine.checks.small import PAIRS
    from kdbench.engine.checks.table import CHECKS
    from kdbench.experiment.registry import load_method, method_name, method_source

    name = method_name(method)
    title = f"{name}, version {load_method(name).VERSION}, {method_source(name).text}"
    progress = spinner(console())
    with tempfile.TemporaryDirectory(prefix="kdbench-") as scratch, progress:
        task = progress.add_task("")
        verdicts = checking.validate(name, Path(scratch), lambda step: progress.update(task, description=step))
    echo(f"{title}, in steps of a few images on the CPU:\n")
    print_rows(checking.rows(verdicts))
    echo("\n" + "\n".join(f"{pair}: {checking.pair_text(pair)}" for pair in PAIRS) + "\n")
    for line in checking.remarks(verdicts):
        echo(line)
    failed = {verdict.check for verdict in verdicts if verdict.outcome == "FAILS"}
    unsupported = all(verdict.outcome == "refused" for verdict in verdicts)
    tried = any(verdict.outcome == "ok" for verdict in verdicts)
    if unsupported:
        echo("nothing was checked: the method supports none of these pairs")
    elif failed:
        verb, rest = "fails" if len(failed) == 1 else "fail", "" if tried else "; the others could not be run"
        echo(f"{len(failed)} of {len(CHECKS)} checks {verb}{rest}")
    else:
        supported = {verdict.pair for verdict in verdicts if verdict.outcome == "ok"}
        pairs = "" if len(supported) == len(PAIRS) else f" on {len(supported)} of {len(PAIRS)} pairs only"
        echo(f"all {len(CHECKS)} checks passed{pairs}")
    raise typer.Exit(1 if failed or unsupported else 0)
