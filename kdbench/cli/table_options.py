"""Options of the commands that print tables of records, and what follows from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdbench.cli.selection import Names, NamesHelp
from kdbench.errors import UserError
from kdbench.utils.text import counted

if TYPE_CHECKING:
    from kdbench.analysis.comparison import Reported
    from kdbench.analysis.tables.render import Format
    from kdbench.analysis.tables.table import Table

Epoch = Literal["last", "validation", "best"]
Measure = Literal["top1", "balanced-accuracy", "macro-f1"]
FormOption = Annotated[
    Literal["terminal", "markdown", "latex", "csv"], typer.Option("--format", help="Output format.")
]  # fmt: skip
EpochOption = Annotated[
    Epoch,
    typer.Option(
        help="Reported epoch: the last, the one that is best on held-out images, or the best on the test set, which "
        "tables mark."
    ),
]
MeasureOption = Annotated[
    Measure,
    typer.Option(
        help="What is compared: top-1, or the mean over classes of accuracy or of F1, in which each class counts as "
        "much as the others."
    ),
]
TableNamesOption = Annotated[
    Names | None, typer.Option("--names", help=f"{NamesHelp} [default: printed in LaTeX, else typed]")
]
CaptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--caption",
        help="Caption of the table, in place of its title, as plain text; once for each table that is printed.",
    ),
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", help="Label of the table in LaTeX, such as tab:main; once for each table that is printed."),
]
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._/+-]*")


def names_for(names: Names | None, form: Format) -> Names:
    """Return the names that a table has: those of the option, else printed ones in LaTeX."""
    return names or ("printed" if form == "latex" else "typed")


def reported_by(epoch: Epoch, measure: Measure) -> Reported:
    """Return what tables report.

    Raises
    ------
    UserError
        The best epoch is that of another measure.
    """
    if measure == "top1":
        return epoch
    if epoch != "last":
        raise UserError("the best epoch is the one of the best top-1: leave --epoch or --measure out")
    return "balanced_accuracy" if measure == "balanced-accuracy" else "macro_f1"


def check_captions(captions: Sequence[str] | None, labels: Sequence[str] | None, form: Format) -> None:
    """Check what can be checked of captions and labels before any record is read.

    Raises
    ------
    UserError
        A caption is empty or has characters that LaTeX lacks, or a label is none of LaTeX or given for another form.
    """
    from kdbench.analysis.tables.latex import lacking

    for caption in captions or []:
        if not caption.strip():
            raise UserError("--caption needs a text: leave it out for the title of the table")
        if form == "latex" and (missing := lacking(" ".join(caption.split()))):
            raise UserError(f"--caption {caption!r}: the standard fonts of LaTeX have no {missing}: write it in words")
    if labels and form != "latex":
        raise UserError("--label is for LaTeX: add --format latex, or leave it out")
    for label in labels or []:
        if not _LABEL.fullmatch(label):
            raise UserError(f"--label {label!r} is no label: it may have letters, digits and :._/+- such as tab:main")
    if labels and len(set(labels)) < len(labels):
        raise UserError(f"--label: each table needs one of its own, not {', '.join(labels)}")


def captioned(tables: Sequence[Table], captions: Sequence[str] | None, labels: Sequence[str] | None) -> list[Table]:
    """Return tables with the captions and labels that were given for them.

    Raises
    ------
    UserError
        They are not as many as the tables.
    """
    for option, words in (("--caption", captions), ("--label", labels)):
        if words and len(words) != len(tables):
            titles = "; ".join(table.title for table in tables)
            raise UserError(
                f"{option} is given {counted(len(words), 'time')} for {counted(len(tables), 'table')}: {titles}; "
                "give one for each, or select tables with --protocol, --rules or --pairs"
            )
    made = list(tables)
    if captions:
        made = [replace(table, title=" ".join(caption.split())) for table, caption in zip(made, captions, strict=True)]
    if labels:
        made = [replace(table, label=label) for table, label in zip(made, labels, strict=True)]
    return made
