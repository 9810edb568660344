"""``kdbench list`` and ``kdbench show``: what kdbench knows."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from kdbench.cli.options import DEMO, console, print_rows
from kdbench.errors import UserError


def list_(
    what: Annotated[Literal["methods", "networks", "datasets", "protocols", "pairs"], typer.Argument()],
    pair: Annotated[
        str | None, typer.Option(help="Of methods: what they train beside this student.", metavar="TEACHER>STUDENT")
    ] = None,
) -> None:
    """List what kdbench knows, and methods of your own."""
    from kdbench.cli.catalogue import LISTS, methods  # noqa: PLC0415
    from kdbench.experiment.protocol import load_protocol  # noqa: PLC0415
    from kdbench.models import parse_pair  # noqa: PLC0415

    if what != "methods":
        if pair:
            raise UserError(f"--pair is for 'kdbench list methods', not for {what}")
        print_rows(LISTS[what]())
        return
    rules = load_protocol(load_protocol(DEMO).demo.next)
    rows, remarks = methods(parse_pair(pair) if pair else None, rules)
    print_rows(rows)
    if pair or remarks:
        console.print()
    if pair:
        console.print(f"extra parameters: trained beside the student of {parse_pair(pair)}, as in {rules.name}")
    for remark in remarks:
        console.print(remark, markup=False)


def show(method: str) -> None:
    """Print a method's paper, idea, settings with their sources, and where paper and code differ."""
    from kdbench.cli.catalogue import method_page  # noqa: PLC0415

    console.print(method_page(method), markup=False)
