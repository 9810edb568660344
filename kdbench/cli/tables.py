"""``kdbench table``, ``leaderboard`` and ``compare``: what the records say."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.analysis.comparison import Comparison
    from kdbench.analysis.records import Records
    from kdbench.analysis.tables.layouts import Marks
    from kdbench.analysis.tables.table import Table

Runs = Annotated[Path, typer.Argument(help="Folder of runs, or any folder of records.")]
Form = Annotated[Literal["terminal", "markdown", "latex", "csv"], typer.Option("--format")]
Reported = Annotated[
    Literal["last", "best"], typer.Option(help="Epoch that is reported; 'best' is selected on the test set and marked.")
]
Methods = Annotated[list[str] | None, typer.Option(help="Only these rows; may be repeated, or joined by commas.")]
Pairs = Annotated[list[str] | None, typer.Option(help="Only these 'TEACHER>STUDENT'; may be repeated.")]
ProtocolName = Annotated[str | None, typer.Option("--protocol", help="Only records under these rules.")]
Baseline = Annotated[str | None, typer.Option(help="Row that differences are to. [default: the student alone]")]
_SHOWN = 10
"""Problems that are told one by one."""


def table(
    runs: Annotated[
        Path | None, typer.Argument(help="Folder of runs, or any folder of records.  [default: runs]")
    ] = None,
    layout: Annotated[
        Literal["detail", "paper"], typer.Option(help="All metrics of each pair, or methods x pairs.")
    ] = "detail",
    form: Form = "terminal",
    baseline: Baseline = None,
    marks: Annotated[
        Literal["clear", "all", "none"],
        typer.Option(help="Best and second: where the difference is clear, always, or never."),
    ] = "clear",
    epoch: Reported = "last",
    methods: Methods = None,
    pairs: Pairs = None,
    protocol: ProtocolName = None,
    published: Annotated[
        str | None, typer.Option(help="Published values of a data set: alone, or below ours in the paper layout.")
    ] = None,
    source: Annotated[list[str] | None, typer.Option(help="Only published values of these sources.")] = None,
    beside: Annotated[bool, typer.Option("--beside", help="Published values beside ours, in brackets.")] = False,
) -> None:
    """Print the finished cells as tables, or published values."""
    from kdbench.analysis.published.tables import with_published
    from kdbench.analysis.published.values import load_published
    from kdbench.analysis.tables.differences import choose_baseline
    from kdbench.analysis.tables.layouts import detail, paper

    if published and runs is None:
        _print(_published(published, source, methods, pairs, baseline, marks), form)
        return
    if source or (beside and not published):
        raise UserError("--source and --beside are about published values: add --published DATASET")
    if published and layout != "paper":
        raise UserError("published values stand beside ours in the paper layout: add --layout paper")
    with comparisons(runs or Path("runs"), protocol, methods, pairs, baseline) as (found, _):
        if layout == "detail":
            tables = [detail(one, pair, epoch) for one in found for pair in one.pairs]
        else:
            bases = [choose_baseline(one, baseline) if baseline else None for one in found]
            tables = [paper(one, base, marks, epoch) for one, base in zip(found, bases, strict=True)]
        if published:
            values = load_published(published).select(sources=_split(source) or None)
            tables = [with_published(*both, values, beside=beside) for both in zip(tables, found, strict=True)]
        _print(tables, form)


def leaderboard(
    runs: Runs = Path("runs"),
    form: Form = "terminal",
    epoch: Reported = "last",
    methods: Methods = None,
    pairs: Pairs = None,
    protocol: ProtocolName = None,
) -> None:
    """Rank methods over all pairs, with what each costs."""
    from kdbench.analysis.tables import leaderboard as boards

    with comparisons(runs, protocol, methods, pairs) as (found, _):
        notes = boards.stability_notes(found, epoch)
        ranked = [boards.leaderboard(one, epoch) for one in found]
        _print([boards.leaderboard_table(*one) for one in zip(ranked, notes, strict=True)], form)


def compare(
    runs: Runs = Path("runs"),
    baseline: Baseline = None,
    form: Form = "terminal",
    margin: Annotated[float, typer.Option(help="Percentage points that count as a tie.", min=0)] = 0.2,
    by_teacher: Annotated[
        bool,
        typer.Option("--by-teacher", help="Intervals for other teachers: those of pairs that share one are wider."),
    ] = False,
    pairwise: Annotated[bool, typer.Option("--pairwise", help="Every two methods as well, by their ranks.")] = False,
    epoch: Reported = "last",
    methods: Methods = None,
    pairs: Pairs = None,
    protocol: ProtocolName = None,
) -> None:
    """Compare every method with one of them: paired differences with intervals, per pair and pooled."""
    from kdbench.analysis.tables.differences import against, by_pair, choose_baseline, pooled_table
    from kdbench.analysis.tables.leaderboard import pairwise_table

    with comparisons(runs, protocol, methods, pairs, baseline) as (found, _):
        shown = []
        for one in found:
            base = choose_baseline(one, baseline)
            versus = against(one, base, epoch, margin, by_teacher=by_teacher)
            if versus:
                shown += [
                    by_pair(one, base, versus, epoch),
                    pooled_table(one, base, versus, epoch, margin, by_teacher=by_teacher),
                ]
            if pairwise:
                shown.append(pairwise_table(one, epoch))
        if not shown:
            raise UserError(f"no two methods of {runs} have records of one pair and seed")
        _print(shown, form)


def claims(
    runs: Runs = Path("runs"),
    form: Form = "terminal",
    methods: Methods = None,
    pairs: Pairs = None,
    protocol: ProtocolName = None,
) -> None:
    """Hold the results against published ones: value, ours, interval, verdict."""
    from kdbench.analysis.published import ledger
    from kdbench.analysis.published.values import datasets, load_published

    with comparisons(runs, protocol, methods, pairs) as (found, _):
        values = [load_published(dataset) for dataset in datasets()]
        held = [(one, ledger.claims(one, own)) for one in found for own in values]
        shown = [ledger.ledger_table(one, claims) for one, claims in held if claims]
        if not shown:
            titles = "; ".join(one.title for one in found)
            raise UserError(f"nothing was published under these rules and of these pairs: {titles}")
        _print(shown, form)


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
        raise UserError("nothing was published of these methods, sources and pairs together")
    (source,) = wanted if len(wanted := _split(sources)) == 1 else (None,)
    if source and values.is_printed(source):
        return [printed_table(values, source, baseline, "none" if marks == "none" else "all")]
    if baseline:
        raise UserError("--baseline of published values needs --source with one printed table")
    return published_tables(values)


@contextlib.contextmanager
def comparisons(
    runs: Path,
    protocol: str | None,
    methods: list[str] | None,
    pairs: list[str] | None,
    baseline: str | None = None,
) -> Iterator[tuple[list[Comparison], Records]]:
    """What may be compared, and the records; at the end, what could not be read is told, and makes the exit code 2."""
    from kdbench.analysis.comparison import select
    from kdbench.analysis.records import read_records
    from kdbench.analysis.splitting import split

    records = read_records(runs)
    found = split(records)
    if found and protocol:
        names = {one.rules["name"] for one in found}
        if protocol not in names:
            raise UserError(f"no records under {protocol} in {runs}: there are {', '.join(sorted(names))}")
        found = [one for one in found if one.rules["name"] == protocol]
    wanted = [*_split(methods), *([baseline] if baseline and methods else [])]
    found = [select(one, wanted, pairs or []) for one in found]
    if found:
        yield found, records
    if records.begun:
        number = len(records.begun)
        sys.stderr.write(f"{number} {'cell is' if number == 1 else 'cells are'} begun and not finished\n")
    if records.problems:
        told = records.problems[:_SHOWN]
        more = len(records.problems) - len(told)
        raise UserError("\nkdbench: ".join([*told, *([f"and {more} more"] if more else [])]))
    if not found:
        raise UserError(
            f"no finished cells in {runs}: 'kdbench demo', 'kdbench train' or 'kdbench grid run' makes some"
        )


def _split(words: list[str] | None) -> list[str]:
    return [name for word in words or [] for name in word.split(",") if name]


def _print(tables: list[Table], form: Literal["terminal", "markdown", "latex", "csv"]) -> None:
    from kdbench.analysis.tables.render import render

    sys.stdout.write(render(tables, form))
