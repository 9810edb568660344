"""Options that select records for tables and reports, and the comparisons that they select."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from kdbench.cli.output import write_error
from kdbench.errors import UserError
from kdbench.utils.text import quoted

if TYPE_CHECKING:
    from kdbench.analysis.comparison import Comparison, Reported
    from kdbench.analysis.records import Records

_T = TypeVar("_T")

RunsArgument = Annotated[Path, typer.Argument(help="Folder of runs, or any folder with records.")]
MethodsOption = Annotated[
    list[str] | None, typer.Option("--methods", help="Only these rows; may be repeated or separated by commas.")
]
FamiliesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--families",
        help="Only methods of these families: logits, features, relations, contrast, none (without a teacher); may be "
        "repeated or separated by commas.",
    ),
]
WithoutFamiliesOption = Annotated[
    list[str] | None, typer.Option("--without-families", help="No methods of these families; as --families.")
]
PairsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--pairs", help="Only these pairs: 'TEACHER>STUDENT', or a set of 'kdbench list pairs'; may be repeated."
    ),
]
ProtocolFilter = Annotated[
    str | None, typer.Option("--protocol", help="Only records under this protocol, or the title that a table has.")
]
RulesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rules", help="Only records with this rule, e.g. epochs=12 or dataset=digits; may be repeated.",
        metavar="KEY=VALUE",
    ),
]  # fmt: skip
Names = Literal["typed", "printed"]
NamesHelp = "Names of methods and networks: as you type them, or as papers print them, such as ReviewKD and WRN-40-2."
NamesOption = Annotated[Names, typer.Option("--names", help=NamesHelp)]
BaselineOption = Annotated[
    str | None, typer.Option("--baseline", help="Row that differences refer to. [default: the student-only baseline]")
]
_MAX_PROBLEMS = 10
"""Largest number of problems that are printed."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected comparisons of a folder, all its records, and remarks on what was left out."""

    comparisons: list[Comparison]
    records: Records
    remarks: list[str]

    def each(self, make: Callable[[Comparison], Sequence[_T]]) -> list[_T]:
        """Make something of each comparison; one of which nothing can be made is left out, unless it is the last.

        Raises
        ------
        UserError
            Nothing could be made of any comparison.
        """
        made: list[_T] = []
        errors = []
        for comparison in self.comparisons:
            try:
                made += make(comparison)
            except UserError as error:
                errors.append(error)
        if errors and len(errors) == len(self.comparisons):
            raise errors[0]
        self.remarks.extend(f"left out: {error}" for error in errors)
        return made

    def finish(self) -> None:
        """Print the remarks and the number of unfinished cells; end with exit code 2 if files could not be read.

        Raises
        ------
        UserError
            Some files could not be read as records; the message lists them.
        """
        for remark in dict.fromkeys(self.remarks):
            sys.stderr.write(f"{remark}\n")
        _report_incomplete(self.records)


def read_selection(
    runs: Path,
    *,
    protocol: str | None = None,
    rules: list[str] | None = None,
    methods: list[str] | None = None,
    families: list[str] | None = None,
    without_families: list[str] | None = None,
    pairs: list[str] | None = None,
    baseline: str | None = None,
    reported: Reported = "last",
    names: Names = "typed",
) -> Selection:
    """Read the records of a folder, and select the comparisons that have what options name.

    Options name methods, networks and pairs as users type them, whatever ``names`` the tables have.

    Raises
    ------
    UserError
        The folder has no finished cells, or none has what is reported, or a protocol, rule, method or pair that is
        named.
    """
    from kdbench.analysis.records import read_records
    from kdbench.analysis.selection import Filters, select, with_values
    from kdbench.analysis.splitting import split

    filters = Filters(
        protocols=[protocol] if protocol is not None else [],
        rules=rules or [],
        methods=split_names(methods),
        families=split_names(families),
        without_families=split_names(without_families),
        pairs=pairs or [],
        baselines=[baseline] if baseline is not None else [],
    )
    records, lacking = with_values(read_records(runs), reported, filters)
    comparisons = split(records)
    if not comparisons:
        _report_incomplete(records)
        if records.studies:
            raise UserError(f"no finished runs but trials in {runs}: {quoted('kdbench', 'search', runs)} shows them")
        raise UserError(f"no finished cells in {runs}: run 'kdbench demo', 'kdbench train' or 'kdbench grid run' first")
    selected, remarks = select(comparisons, filters)
    if names == "printed":
        from kdbench.analysis.printed_names import read_printed_names

        printed = read_printed_names()
        selected = [printed.comparison(comparison) for comparison in selected]
        remarks.extend(printed.problems)
    return Selection(selected, records, lacking + remarks)


def split_names(words: list[str] | None) -> list[str]:
    """Split options that hold names separated by commas; a comma in brackets belongs to a value.

    Raises
    ------
    UserError
        An option holds no name.
    """
    names = []
    for word in words or []:
        parts = [name.strip() for name in re.split(r",(?![^\[]*\])", word) if name.strip()]
        if not parts:
            raise UserError(f"{word!r} names nothing: give a name, or leave the option out")
        names += parts
    return names


def _report_incomplete(records: Records) -> None:
    from kdbench.analysis.searched import unfinished_runs

    number = len(unfinished_runs(records))
    if number:
        sys.stderr.write(f"{number} {'cell has' if number == 1 else 'cells have'} started but not finished\n")
    end_with_problems(records.problems)


def end_with_problems(problems: Sequence[str]) -> None:
    """Print files that could not be read, and end with exit code 2; without any, do nothing.

    Raises
    ------
    UserError
        The last line.
    """
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        lines = [*problems[:_MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
        for line in lines[:-1]:
            write_error(line)
        raise UserError(lines[-1])
