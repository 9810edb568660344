"""Options that several commands have, and the terminal that they print to."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kdbench.cli.output import write_utf8
from kdbench.utils.text import printable, quoted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from kdbench.analysis.tables.render import Format
    from kdbench.analysis.tables.table import Table

_WIDE = 240
"""Columns of output that goes to a file or a pipe."""

DEMO = "digits-demo-v2"
"""The protocol of the demo, which names the protocol to try next."""

ProtocolOption = Annotated[str, typer.Option(help="Training rules; 'kdbench list protocols' lists them.")]
RunsOption = Annotated[Path, typer.Option(help="Folder of runs.", metavar="DIR")]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="Folder of data sets, or one data set: npz:FILE, or image files as folder:DIR, imagenet:DIR, "
        "tinyimagenet:DIR, tar:DIR, hfds:NAME. Labels of npz:FILE,labels=from1 begin at 1; those of "
        "npz:FILE,labels=sorted have gaps, and are numbered in their order. [default: data]",
        metavar="DIR|KIND:DIR",
    ),
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        help="Data set in place of the protocol's, whose other rules stay as they are, mean and std among them; "
        "'kdbench list datasets' lists them. [default: the protocol's]",
        metavar="NAME",
    ),
]
DownloadOption = Annotated[bool, typer.Option("--download", help="Download the data set if it is missing.")]
EpochsOption = Annotated[
    int | None,
    typer.Option(help="Number of epochs, of teachers too; the schedule keeps its shape. [default: the protocol's]"),
]
PrecisionOption = Annotated[
    Literal["fp32", "bf16", "fp16"] | None,
    typer.Option(help="Precision of the forward pass. [default: the protocol's]"),
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ... [default: a GPU if there is one, else cpu]")
]
SaveEveryOption = Annotated[
    float,
    typer.Option(
        help="Seconds between two saves of the state; longer where saving would take more than a twentieth of the "
        "time. 0: save after every step."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(help="Processes that decode image files. [default: the CPUs of the job]", metavar="N"),
]
DevicesOption = Annotated[
    int,
    typer.Option(
        help="Devices that compute each cell, each of them some groups of a batch. The result does not depend on how "
        "many they are.",
        min=1,
    ),
]
CacheOption = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(help="Read teacher outputs from a cache: where that saves forward passes, always, or never."),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Use CUDA graphs on a GPU, and a compiled student on a CPU.")
]
PredictionsOption = Annotated[
    bool,
    typer.Option(
        "--no-predictions",
        help="Do not keep the class and the logits that are predicted for each test image (predictions.npz).",
    ),
]
NetworkOption = Annotated[str, typer.Option(help="Network; 'kdbench list networks' lists them.")]
SeedsOption = Annotated[
    list[int] | None,
    typer.Option(help="Decides initial weights, order of images and views; may be repeated. [default: 1]"),
]
InitHelp = "Weights that training starts from: a file, or published ones by name, e.g. timm:resnet50.a1_in1k."
TeacherHelp = (
    "NETWORK, NETWORK@HASH if there are several, NETWORK:EPOCHS for one of another length of training (0: random "
    "weights), or logits:NAME; A+B is an ensemble, whose logits are averaged. "
    "'kdbench teacher list' lists them."
)


@functools.cache
def console() -> Console:
    """Return the terminal; made on first use, since rich takes a while to import."""
    from rich.console import Console

    return Console(
        highlight=False, markup=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE
    )


def progress_bar(terminal: Console) -> Progress:
    """Return a bar for work whose description is text as it is; nothing is shown elsewhere than on a terminal."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    return Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)


def spinner(terminal: Console) -> Progress:
    """Return a spinner beside text as it is, for work of unknown length; nothing is shown but on a terminal."""
    from rich.progress import Progress, SpinnerColumn, TextColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False)
    return Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)


def echo(text: str = "", end: str = "\n") -> None:
    """Print text as it is, but for control characters."""
    console().print("\n".join(map(printable, text.split("\n"))), end=end)


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    from tabulate import tabulate

    echo(tabulate(rows, headers="keys", disable_numparse=True))


def print_tables(tables: Sequence[Table], form: Format) -> None:
    """Print tables in a format; what programs read is in UTF-8 on every terminal."""
    from kdbench.analysis.tables.render import render

    text = render(tables, form)
    if form in ("csv", "latex"):
        write_utf8(text)
    else:
        sys.stdout.write(text)


def next_command(context: typer.Context, *words: object, keep: tuple[str, ...] = ()) -> str:
    """Spell a command to type next in a sentence, in quotes; see :func:`next_words`."""
    return quoted(*next_words(context, *words, keep=keep))


def command_line(context: typer.Context, *words: object, keep: tuple[str, ...] = ()) -> str:
    """Spell a command to type next on a line of its own; see :func:`next_words`."""
    return shlex.join(next_words(context, *words, keep=keep))


def next_words(context: typer.Context, *words: object, keep: tuple[str, ...] = ()) -> list[str]:
    """Return the words of a command to type next, with options of this command that were given.

    Parameters
    ----------
    words
        Words after ``kdbench``.
    keep
        Parameters of this command; those that were given are options of the next command too.
    """
    given = context.find_root().params
    folders = [(f"--{key}", str(folder)) for key in ("methods", "own") for folder in given.get(key) or []]
    places = [word for pair in folders for word in pair]
    return ["kdbench", *places, *map(str, words), *_given(context, keep)]


def _given(context: typer.Context, names: tuple[str, ...]) -> Iterator[str]:
    """Spell the options of this command that were typed."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            yield from (parameter.opts[0], str(context.params[parameter.name]))
