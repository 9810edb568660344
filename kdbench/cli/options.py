"""Options that several commands have, and where they print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

_WIDE = 240
"""Columns of output that goes to a file or a pipe."""
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)

DEMO = "digits-demo-v1"
"""The protocol of a first look, which names the one to go on to."""
Protocol = Annotated[str, typer.Option(help="Training rules; 'kdbench list protocols' names all.")]
Runs = Annotated[Path, typer.Option(help="Folder of runs.", metavar="DIR")]
Data = Annotated[str, typer.Option(help="Folder of data sets, or one file.", metavar="DIR|npz:FILE")]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not there.")]
Epochs = Annotated[
    int | None, typer.Option(help="Train for so many epochs, teachers too; the schedule keeps its shape.")
]
Precision = Annotated[Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="Precision of the forward pass.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default a GPU where there is one.")]
SaveEvery = Annotated[float, typer.Option(help="Seconds between two saves of the state.")]
Cache = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(help="Teacher outputs from the cache: where it saves forward passes, always, or never."),
]
Compile = Annotated[bool, typer.Option("--compile", help="CUDA graphs on a GPU; a compiled student elsewhere.")]
Network = Annotated[str, typer.Option(help="'kdbench list networks' names all.")]


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    from tabulate import tabulate  # noqa: PLC0415

    console.print(tabulate(rows, headers="keys", disable_numparse=True), markup=False)
