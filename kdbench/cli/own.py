"""``kdbench new`` and ``kdbench validate``: a method of one's own."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import DEMO, console, print_rows
from kdbench.experiment.user_methods import folders


def new(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and _.")],
    folder: Annotated[Path, typer.Option("--dir", help="Where to write it.", metavar="DIR")] = Path(),
) -> None:
    """Write the start of a method of your own: a file that works, and a recipe file."""
    from kdbench.experiment.pairs import Pair  # noqa: PLC0415
    from kdbench.experiment.protocol import load_protocol  # noqa: PLC0415
    from kdbench.experiment.templates import write_method  # noqa: PLC0415

    for file in write_method(name, folder):
        console.print(f"{file} is written", markup=False)
    rules = load_protocol(DEMO)
    pair = Pair.parse(rules.demo.pair)
    beside = " ".join(f"--method {method}" for method in (*rules.demo.methods[:2], name))
    found = folder.absolute() in folders()
    kdbench = "kdbench" if found else f"kdbench --methods {shlex.quote(str(folder))}"
    console.print("Change it, then type:")
    for words in (
        f"validate {name}",
        f"teacher train --protocol {DEMO} --network {pair.teacher}",
        f"train --protocol {DEMO} --teacher {pair.teacher} --student {pair.student} {beside}",
    ):
        console.print(f"  {kdbench} {words}", markup=False)


def validate(method: str) -> None:
    """Check that a method keeps the rules that all methods keep; exit code 1 if it does not."""
    from rich.progress import Progress, SpinnerColumn, TextColumn  # noqa: PLC0415

    from kdbench.engine.checks import validate as checking  # noqa: PLC0415
    from kdbench.engine.checks.rules import CHECKS  # noqa: PLC0415
    from kdbench.engine.checks.small import PAIRS  # noqa: PLC0415
    from kdbench.experiment.registry import load_method, method_name, method_source  # noqa: PLC0415

    name = method_name(method)
    what = f"{name}, version {load_method(name).VERSION}, {method_source(name).text}"
    columns = SpinnerColumn(), TextColumn("{task.description}")
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with tempfile.TemporaryDirectory(prefix="kdbench-") as scratch, shown:
        task = shown.add_task("")
        verdicts = checking.validate(name, Path(scratch), lambda now: shown.update(task, description=now))
    console.print(f"{what}, in steps of a few images on the CPU:\n", markup=False)
    print_rows(checking.rows(verdicts))
    console.print("\n" + "\n".join(f"{pair}: {checking.pair_text(pair)}" for pair in PAIRS) + "\n", markup=False)
    for line in checking.remarks(verdicts):
        console.print(line, markup=False)
    failed = {verdict.check for verdict in verdicts if verdict.outcome == "FAILS"}
    refused = all(verdict.outcome == "refused" for verdict in verdicts)
    tried = any(verdict.outcome == "ok" for verdict in verdicts)
    if refused:
        console.print("nothing was checked: the method refuses every pair")
    elif failed:
        verb, rest = "fails" if len(failed) == 1 else "fail", "" if tried else "; the others could not be tried"
        console.print(f"{len(failed)} of {len(CHECKS)} checks {verb}{rest}")
    else:
        console.print(f"all {len(CHECKS)} checks hold")
    raise typer.Exit(1 if failed or refused else 0)
