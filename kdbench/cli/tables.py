"""``kdbench table`` and ``leaderboard``: records, and published values, as tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdbench.cli.options import print_tables
from kdbench.cli.output import write_error
from kdbench.cli.selection import (
    BaselineOption,
    FamiliesOption,
    MethodsOption,
    PairsOption,
    ProtocolFilter,
    RulesOption,
    RunsArgument,
    WithoutFamiliesOption,
    read_selection,
    split_names,
)
from kdbench.cli.table_options import (
    CaptionOption,
    EpochOption,
    FormOption,
    LabelOption,
    MeasureOption,
    TableNamesOption,
    captioned,
    check_captions,
    names_for,
    reported_by,
)
from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.analysis.comparison import Comparison
    from kdbench.analysis.published.values import Published
    from kdbench.analysis.tables.layouts import Marks
    from kdbench.analysis.tables.table import Table

PER_TABLE = 7
"""Largest number of pairs in a table of LaTeX: that of CRD's larger table, which fits an article of 345 pt in 7 pt."""
_PER_TABLE_BESIDE = 6
"""The same with published values in brackets, which are wider."""


def table(
    runs: Annotated[
        Path | None, typer.Argument(help="Folder of runs, or any folder with records.  [default: runs]")
    ] = None,
    layout: Annotated[
        Literal["detail", "paper"], typer.Option(help="All metrics of each pair, or methods x pairs as in papers.")
    ] = "detail",
    form: FormOption = "terminal",
    names: TableNamesOption = None,
    caption: CaptionOption = None,
    label: LabelOption = None,
    baseline: BaselineOption = None,
    marks: Annotated[
        Literal["clear", "all", "none"] | None,
        typer.Option(
            help="In the paper layout, mark best and second best if the interval of the difference excludes zero, "
            "always, or never. [default: clear]"
        ),
    ] = None,
    epoch: EpochOption = "last",
    measure: MeasureOption = "top1",
    methods: MethodsOption = None,
    families: FamiliesOption = None,
    without_families: WithoutFamiliesOption = None,
    pairs: PairsOption = None,
    protocol: ProtocolFilter = None,
    rules: RulesOption = None,
    published: Annotated[
        str | None, typer.Option(help="Published values of this data set, alone or with ours in the paper layout.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Only published values of these sources; below ours, of methods that were not run too. "
            "May be repeated."
        ),
    ] = None,
    beside: Annotated[bool, typer.Option("--beside", help="Show published values in brackets beside ours.")] = False,
    per_table: Annotated[
        int | None,
        typer.Option(
            help="In the paper layout, largest number of pairs in a table; further ones are in tables of their own. "
            f"[default: {PER_TABLE} in LaTeX, {_PER_TABLE_BESIDE} with --beside, else all]",
            metavar="N",
            min=1,
        ),
    ] = None,
) -> None:
    """Print finished cells, or published values, as tables."""
    from kdbench.analysis.published.tables import with_published
    from kdbench.analysis.published.values import load_published
    from kdbench.analysis.tables.differences import choose_baseline
    from kdbench.analysis.tables.layouts import detail, paper
    from kdbench.analysis.tables.pages import split_pairs

    check_captions(caption, label, form)
    if published is not None and runs is None:
        if protocol is not None or rules or beside or epoch != "last" or measure != "top1":
            raise UserError(
                "--protocol, --rules, --beside, --epoch and --measure are about your records: name their folder, as in "
                f"'kdbench table runs --layout paper --published {published}'"
            )
        tables = _published(
            published, source, methods, pairs, baseline, marks or "clear", families or [], without_families or []
        )
        if names_for(names, form) == "printed":
            tables = _with_printed_heads(tables)
        print_tables(captioned(tables, caption, label), form)
        return
    reported = reported_by(epoch, measure)
    if published is not None and measure != "top1":
        raise UserError("published values are top-1: leave --published or --measure out")
    if (source or beside) and published is None:
        raise UserError("--source and --beside need published values: add --published DATASET")
    needing = {"published": published, "marks": marks, "per-table": per_table}
    if layout != "paper" and (option := next((name for name, value in needing.items() if value is not None), None)):
        raise UserError(f"--{option} needs the paper layout: add --layout paper")
    selection = read_selection(
        runs or Path("runs"),
        protocol=protocol,
        rules=rules,
        methods=methods,
        families=families,
        without_families=without_families,
        pairs=pairs,
        baseline=baseline,
        reported=reported,
        names=names_for(names, form),
    )
    values = load_published(published).select(sources=split_names(source) or None) if published is not None else None
    values = _of_families(values, families, without_families) if values else None
    selection.remarks.extend(values.problems if values else ())
    others = bool(source) and not methods

    def tables_of(comparison: Comparison) -> list[Table]:
        base = choose_baseline(comparison, baseline) if baseline is not None else None
        if layout == "detail":
            return [detail(comparison, pair, reported, base) for pair in comparison.pairs]
        ours = paper(comparison, base, marks or "clear", reported)
        whole = with_published(ours, comparison, values, beside=beside, others=others) if values else ours
        most = _PER_TABLE_BESIDE if beside else PER_TABLE
        return split_pairs(whole, per_table or (most if form == "latex" else None))

    print_tables(captioned(selection.each(tables_of), caption, label), form)
    selection.finish()


def leaderboard(
    runs: RunsArgument = Path("runs"),
    form: FormOption = "terminal",
    names: TableNamesOption = None,
    caption: CaptionOption = None,
    label: LabelOption = None,
    epoch: EpochOption = "last",
    measure: MeasureOption = "top1",
    methods: MethodsOption = None,
    families: FamiliesOption = None,
    without_families: WithoutFamiliesOption = None,
    pairs: PairsOption = None,
    protocol: ProtocolFilter = None,
    rules: RulesOption = None,
) -> None:
    """Rank methods over all pairs, with the cost of each."""
    from kdbench.analysis.tables import leaderboard as boards

    check_captions(caption, label, form)
    reported = reported_by(epoch, measure)
    selection = read_selection(
        runs,
        protocol=protocol,
        rules=rules,
        methods=methods,
        families=families,
        without_families=without_families,
        pairs=pairs,
        reported=reported,
        names=names_for(names, form),
    )
    notes = boards.stability_notes(selection.comparisons, reported)
    leaderboards = [boards.leaderboard(comparison, reported) for comparison in selection.comparisons]
    tables = [boards.leaderboard_table(*both) for both in zip(leaderboards, notes, strict=True)]
    print_tables(captioned(tables, caption, label), form)
    selection.finish()


def _published(
    dataset: str,
    sources: list[str] | None,
    methods: list[str] | None,
    pairs: list[str] | None,
    baseline: str | None,
    marks: Marks,
    families: list[str],
    without_families: list[str],
) -> list[Table]:
    from kdbench.analysis.comparison import FAMILIES
    from kdbench.analysis.published.printed import printed_table
    from kdbench.analysis.published.tables import published_tables
    from kdbench.analysis.published.values import load_published
    from kdbench.experiment.pairs import named_pairs
    from kdbench.utils.names import unknown_name

    for name in (*split_names(families), *split_names(without_families)):
        if name.lower() not in FAMILIES:
            raise unknown_name("family", name, FAMILIES, f"the families are {', '.join(FAMILIES)}")
    sets = named_pairs()
    for name in pairs or []:
        if name not in sets and ">" not in name:
            raise unknown_name("pair", name, sets, f"type 'TEACHER>STUDENT', or a set: {', '.join(sets)}")
    networks = [str(pair) for name in pairs or [] for pair in (sets[name].pairs if name in sets else (name,))]
    published = load_published(dataset)
    for problem in published.problems:
        write_error(problem)
    values = published.select(split_names(methods) or None, split_names(sources) or None, networks or None)
    values = _of_families(values, families, without_families)
    if values.frame.empty:
        raise UserError("no values are published for this combination of methods, families, sources and pairs")
    source = names[0] if len(names := split_names(sources)) == 1 else None
    if source and values.is_printed(source):
        return [printed_table(values, source, baseline, "none" if marks == "none" else "all")]
    if baseline is not None:
        raise UserError("--baseline needs one source that is a printed table, for example --source pckd")
    return published_tables(values)


def _of_families(values: Published, families: list[str] | None, without_families: list[str] | None) -> Published:
    """Return the values of methods of some families, or of no such families."""
    kept, dropped = ([name.lower() for name in split_names(words)] for words in (families, without_families))
    of_methods = values.frame["method"].map({name: method.family for name, method in values.methods.items()})
    frame = values.frame[~of_methods.isin(dropped) & (of_methods.isin(kept) if kept else True)]
    return replace(values, frame=frame.reset_index(drop=True))


def _with_printed_heads(tables: list[Table]) -> list[Table]:
    """Return tables of published values, whose methods have printed names, with those of the networks, too."""
    from kdbench.analysis.printed_names import read_printed_names

    names = read_printed_names()
    return [replace(table, heads=tuple(tuple(map(names.network, line)) for line in table.heads)) for table in tables]
