"""``kdbench table``, ``leaderboard``, ``compare`` and ``claims``: tables of records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.analysis.comparison import Comparison
    from kdbench.analysis.records import Records
    from kdbench.analysis.tables.layouts import Marks
    from kdbench.analysis.tables.table import Table

Runs = Annotated[Path, typer.Argument(help="Folder of runs, or any folder with records.")]
Form = Annotated[Literal["terminal", "markdown", "latex", "csv"], typer.Option("--format", help="Output format.")]
Reported = Annotated[
    Literal["last", "best"],
    typer.Option(help="Reported epoch; 'best' is selected on the test set, and marked in the tables."),
]
Methods = Annotated[list[str] | None, typer.Option(help="Only these rows; may be repeated or separated by commas.")]
Pairs = Annotated[list[str] | None, typer.Option(help="Only these pairs, as 'TEACHER>STUDENT'; may be repeated.")]
ProtocolName = Annotated[str | None, typer.Option("--protocol", help="Only records under this protocol.")]
Baseline = Annotated[
    str | None, typer.Option(help="Row that differences refer to. [default: the student-only baseline]")
]
_MAX_PROBLEMS = 10
"""Largest number of problems that are printed."""


def table(
    runs: Annotated[
        Path | None, typer.Argument(help="Folder of runs, or any folder with records.  [default: runs]")
    ] = None,
    layout: Annotated[
        Literal["detail", "paper"], typer.Option(help="All metrics of each pair, or methods x pairs as in papers.")
    ] = "detail",
    form: Form = "terminal",
    baseline: Baseline = None,
    marks: Annotated[
        Literal["clear", "all", "none"],
        typer.Option(
            help="Mark best and second best if the interval of the difference excludes zero, always, or never."
        ),
    ] = "clear",
    epoch: Reported = "last",
    methods: Methods = None,
    pairs: Pairs = None,
    protocol: ProtocolName = None,
    published: Annotated[
        str | None, typer.Option(help="Published values of this data set, alone or with ours in the paper layout.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Only published values of these sources; may be repeated.")
    ] = None,
    beside: Annotated[bool, typer.Option("--beside", help="Show published values in brackets beside ours.")] = False,
) -> None:
    """Print finished cells, or published values, as tables."""
    from kdbench.analysis.published.tables import with_published
    from kdbench.analysis.published.values import load_published
    from kdbench.analysis.tables.differences import choose_baseline
    from kdbench.analysis.tables.layouts import detail, paper

    if published and runs is None:
        _print(_published(published, source, methods, pairs, baseline, marks), form)
        return
    if source or (beside and not published):
        raise UserError("--source and --beside need published values: add --published DATASET")
    if published and layout != "paper":
        raise UserError("published values can be shown with ours in the paper layout only: add --layout paper")
    comparisons, records = read_comparisons(runs or Path("runs"), protocol, methods, pairs, baseline)
    if layout == "detail":
        tables = [detail(comparison, pair, epoch) for comparison in comparisons for pair in comparison.pairs]
    else:
        baselines = [choose_baseline(comparison, baseline) if baseline else None for comparison in comparisons]
        tables = [paper(*both, marks, epoch) for both in zip(comparisons, baselines, strict=True)]
    if published:
        values = load_published(published).select(sources=_split(source) or None)
        tables = [with_published(*both, values, beside=beside) for both in zip(tables, comparisons, strict=True)]
    _print(tables, form)
    report_incomplete(records)


def leaderboard(
    runs: Runs = Path("runs"),
    form: Form = "terminal",
    epoch: Reported = "last",
    methods: Methods = None,
    pairs: Pairs = None,
    protocol: ProtocolName = None,
) -> None:
    """Rank methods over all pairs, with the cost of each."""
    from kdbench.analysis.tables import leaderboard as boards

    comparisons, records = read_comparisons(runs, protocol, methods, pairs)
    notes = boards.stability_notes(comparisons, epoch)
    leaderboards = [boards.leaderboard(comparison, epoch) for comparison in comparisons]
    _print([boards.leaderboard_table(*both) for both in zip(leaderboards, notes, strict=True)], form)
    report_incomplete(records)


def compare(
    runs: Runs = Path("runs"),
    baseline: Baseline = None,
    form: Form = "terminal",
    margin: Annotated[
        float, typer.Option(help="Largest mean difference that counts as a tie, in percentage points.", min=0)
    ] = 0.2,
    by_teacher: Annotated[
        bool,
        typer.Option("--by-teacher", help="Intervals for other teachers; wider if pairs share a teacher."),
    ] = False,
    pairwise: Annotated[
        bool, typer.Option("--pairwise", help="Also compare every two methods by their ranks.")
    ] = False,
    epoch: Reported = "last",
    methods: Methods = None,
    pairs: Pairs = None,
    protocol: ProtocolName = None,
) -> None:
    """Compare every method with a baseline, paired by seed.

    Prints differences with intervals and tests, for each pair and pooled over pairs.
    """
    from kdbench.analysis.tables.differences import against, by_pair, choose_baseline, pooled_table
    from kdbench.analysis.tables.leaderboard import pairwise_table

    comparisons, records = read_comparisons(runs, protocol, methods, pairs, baseline)
    tables = []
    for comparison in comparisons:
        base = choose_baseline(comparison, baseline)
        results = against(comparison, base, epoch, margin, by_teacher=by_teacher)
        if results:
            tables += [
                by_pair(comparison, base, results, epoch),
                pooled_table(comparison, base, results, epoch, margin, by_teacher=by_teacher),
            ]
        if pairwise:
            tables.append(pairwise_table(comparison, epoch))
    if not tables:
        raise UserError(
            f"no two methods in {runs} have records of the same pair and seed: run them with the same seeds"
        )
    _print(tables, form)
    report_incomplete(records)


def claims(
    runs: Runs = Path("runs"),
    form: Form = "terminal",
    methods: Methods = None,
    pairs: Pairs = None,
    protocol: ProtocolName = None,
) -> None:
    """Compare your results with published ones.

    Prints both values, the interval of their difference, and a verdict.
    """
    from kdbench.analysis.published import ledger
    from kdbench.analysis.published.values import datasets, load_published

    comparisons, records = read_comparisons(runs, protocol, methods, pairs)
    published = [load_published(dataset) for dataset in datasets()]
    ledgers = [(comparison, ledger.claims(comparison, values)) for comparison in comparisons for values in published]
    tables = [ledger.ledger_table(comparison, claims) for comparison, claims in ledgers if claims]
    if not tables:
        titles = "; ".join(comparison.title for comparison in comparisons)
        raise UserError(f"no values are published for these rules and pairs: {titles}")
    _print(tables, form)
    report_incomplete(records)


def _published(
    dataset: str,
    sources: list[str] | None,
    methods: list[str] | None,
    pairs: list[str] | None,
    baseline: str | None,
    marks: Marks,
) -> list[Table]:
    from kdbench.analysis.published.tables import printed_table, published_tables
    from kdbench.analysis.published.values import load_published

    values = load_published(dataset).select(_split(methods) or None, _split(sources) or None, pairs)
    if values.frame.empty:
        raise UserError("no values are published for this combination of methods, sources and pairs")
    source = names[0] if len(names := _split(sources)) == 1 else None
    if source and values.is_printed(source):
        return [printed_table(values, source, baseline, "none" if marks == "none" else "all")]
    if baseline:
        raise UserError("--baseline needs one source that is a printed table, for example --source pckd")
    return published_tables(values)


def read_comparisons(
    runs: Path,
    protocol: str | None,
    methods: list[str] | None,
    pairs: list[str] | None,
    baseline: str | None = None,
) -> tuple[list[Comparison], Records]:
    """Read the selected comparisons and all records of a folder; pass the records to :func:`report_incomplete`.

    Raises
    ------
    UserError
        The folder has no finished cells, or a selected protocol, method or pair does not exist.
    """
    from kdbench.analysis.comparison import select
    from kdbench.analysis.records import read_records
    from kdbench.analysis.splitting import split

    records = read_records(runs)
    comparisons = split(records)
    if not comparisons:
        report_incomplete(records)
        raise UserError(f"no finished cells in {runs}: run 'kdbench demo', 'kdbench train' or 'kdbench grid run' first")
    if protocol:
        names = {comparison.rules["name"] for comparison in comparisons}
        if protocol not in names:
            raise UserError(f"no records under {protocol} in {runs}: its records are under {', '.join(sorted(names))}")
        comparisons = [comparison for comparison in comparisons if comparison.rules["name"] == protocol]
    rows = [*_split(methods), *([baseline] if baseline and methods else [])]
    return [select(comparison, rows, pairs or []) for comparison in comparisons], records


def report_incomplete(records: Records) -> None:
    """Print the number of unfinished cells, and end with exit code 2 if files could not be read.

    Raises
    ------
    UserError
        Some files could not be read as records; the message lists them.
    """
    number = len(records.unfinished)
    if number:
        sys.stderr.write(f"{number} {'cell has' if number == 1 else 'cells have'} started but not finished\n")
    if records.problems:
        more = len(records.problems) - _MAX_PROBLEMS
        lines = [*records.problems[:_MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
        raise UserError("\nkdbench: ".join(lines))


def _split(words: list[str] | None) -> list[str]:
    return [name for word in words or [] for name in word.split(",") if name]


def _print(tables: list[Table], form: Literal["terminal", "markdown", "latex", "csv"]) -> None:
    from kdbench.analysis.tables.render import render

    sys.stdout.write(render(tables, form))
