"""``kdbench list`` and ``kdbench show``: methods, networks, data sets, protocols and pairs."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from kdbench.cli.options import DEMO, echo, print_rows
from kdbench.errors import UserError


def list_(
    what: Annotated[
        Literal["methods", "networks", "datasets", "protocols", "pairs"], typer.Argument(help="What to list.")
    ],
    pair: Annotated[
        str | None,
        typer.Option(
            help="With methods: add the number of parameters that each trains beside this student.",
            metavar="TEACHER>STUDENT",
        ),
    ] = None,
) -> None:
    """List methods, networks, data sets, protocols or pairs.

    Your own methods, networks and protocols are listed with the others, broken ones with what is wrong.
    """
    from kdbench.cli.catalogue import LISTS, methods
    from kdbench.experiment.protocol import load_protocol
    from kdbench.models import parse_pair

    if what != "methods":
        if pair is not None:
            raise UserError(f"--pair needs 'kdbench list methods': leave it out to list {what}")
        rows, remarks = LISTS[what]()
        print_rows(rows)
        for remark in remarks:
            echo(remark)
        return
    protocol = load_protocol(load_protocol(DEMO).demo.next)
    rows, remarks = methods(None if pair is None else parse_pair(pair), protocol)
    print_rows(rows)
    if pair or remarks:
        echo()
    if pair is not None:
        echo(f"extra parameters: trained beside the student of {parse_pair(pair)} under {protocol.name}")
    for remark in remarks:
        echo(remark)


def show(method: Annotated[str, typer.Argument(help="Method; 'kdbench list methods' lists them.")]) -> None:
    """Print a method's paper, idea, and settings with sources.

    Also where paper and published code differ, and what is done here.
    """
    from kdbench.cli.method_page import method_page

    echo(method_page(method))
