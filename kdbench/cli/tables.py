"""``kdbench table``, ``leaderboard``, ``compare`` and ``claims``: tables of records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdbench.cli.options import print_tables
from kdbench.cli.output import write_error
from kdbench.cli.selection import (
    BaselineOption,
    MethodsOption,
    PairsOption,
    ProtocolFilter,
    RulesOption,
    RunsArgument,
    read_selection,
    split_names,
)
from kdbench.errors import UserError
from kdbench.experiment.folder import RECORD

if TYPE_CHECKING:
    from kdbench.analysis.comparison import Comparison, Reported
    from kdbench.analysis.tables.layouts import Marks
    from kdbench.analysis.tables.table import Table

Form = Annotated[Literal["terminal", "markdown", "latex", "csv"], typer.Option("--format", help="Output format.")]
EpochOption = Annotated[
    Literal["last", "validation", "best"],
    typer.Option(
        help="Reported epoch: the last, the one that is best on held-out images, or the best on the test set, which "
        "tables mark."
    ),
]
MeasureOption = Annotated[
    Literal["top1", "balanced-accuracy", "macro-f1"],
    typer.Option(
        help="What is compared: top-1, or the mean over classes of accuracy or of F1, in which each class counts as "
        "much as the others."
    ),
]


def table(
    runs: Annotated[
        Path | None, typer.Argument(help="Folder of runs, or any folder with records.  [default: runs]")
    ] = None,
    layout: Annotated[
        Literal["detail", "paper"], typer.Option(help="All metrics of each pair, or methods x pairs as in papers.")
    ] = "detail",
    form: Form = "terminal",
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
) -> None:
    """Print finished cells, or published values, as tables."""
    from kdbench.analysis.published.tables import with_published
    from kdbench.analysis.published.values import load_published
    from kdbench.analysis.tables.differences import choose_baseline
    from kdbench.analysis.tables.layouts import detail, paper

    if published is not None and runs is None:
        if protocol is not None or rules or beside or epoch != "last" or measure != "top1":
            raise UserError(
                "--protocol, --rules, --beside, --epoch and --measure are about your records: name their folder, as in "
                f"'kdbench table runs --layout paper --published {published}'"
            )
        print_tables(_published(published, source, methods, pairs, baseline, marks or "clear"), form)
        return
    reported = _reported(epoch, measure)
    if published is not None and measure != "top1":
        raise UserError("published values are top-1: leave --published or --measure out")
    if (source or beside) and published is None:
        raise UserError("--source and --beside need published values: add --published DATASET")
    if (published is not None or marks) and layout != "paper":
        raise UserError(f"--{'marks' if published is None else 'published'} needs the paper layout: add --layout paper")
    selection = read_selection(
        runs or Path("runs"),
        protocol=protocol,
        rules=rules,
        methods=methods,
        pairs=pairs,
        baseline=baseline,
        reported=reported,
    )
    values = load_published(published).select(sources=split_names(source) or None) if published is not None else None
    selection.remarks.extend(values.problems if values else ())
    others = bool(source) and not methods

    def tables_of(comparison: Comparison) -> list[Table]:
        base = choose_baseline(comparison, baseline) if baseline is not None else None
        if layout == "detail":
            return [detail(comparison, pair, reported, base) for pair in comparison.pairs]
        ours = paper(comparison, base, marks or "clear", reported)
        return [with_published(ours, comparison, values, beside=beside, others=others) if values else ours]

    print_tables(selection.each(tables_of), form)
    selection.finish()


def leaderboard(
    runs: RunsArgument = Path("runs"),
    form: Form = "terminal",
    epoch: EpochOption = "last",
    measure: MeasureOption = "top1",
    methods: MethodsOption = None,
    pairs: PairsOption = None,
    protocol: ProtocolFilter = None,
    rules: RulesOption = None,
) -> None:
    """Rank methods over all pairs, with the cost of each."""
    from kdbench.analysis.tables import leaderboard as boards

    reported = _reported(epoch, measure)
    selection = read_selection(runs, protocol=protocol, rules=rules, methods=methods, pairs=pairs, reported=reported)
    notes = boards.stability_notes(selection.comparisons, reported)
    leaderboards = [boards.leaderboard(comparison, reported) for comparison in selection.comparisons]
    print_tables([boards.leaderboard_table(*both) for both in zip(leaderboards, notes, strict=True)], form)
    selection.finish()


def compare(
    context: typer.Context,
    runs: RunsArgument = Path("runs"),
    other: Annotated[
        Path | None,
        typer.Argument(help="With the folders of two cells: their predictions are compared image by image."),
    ] = None,
    baseline: BaselineOption = None,
    form: Form = "terminal",
    margin: Annotated[
        float, typer.Option(help="Largest mean difference that counts as a tie, in percentage points.", min=0, max=100)
    ] = 0.2,
    by_teacher: Annotated[
        bool,
        typer.Option("--by-teacher", help="Intervals for other teachers; wider if pairs share a teacher."),
    ] = False,
    pairwise: Annotated[
        bool, typer.Option("--pairwise", help="Also compare every two methods by their ranks.")
    ] = False,
    epoch: EpochOption = "last",
    measure: MeasureOption = "top1",
    methods: MethodsOption = None,
    pairs: PairsOption = None,
    protocol: ProtocolFilter = None,
    rules: RulesOption = None,
) -> None:
    """Compare every method with a baseline, paired by seed.

    Prints differences with intervals and tests, for each pair and pooled over pairs. With the folders of two cells, it
    prints on how many test images each is right alone, with McNemar's test, and how far they agree.
    """
    from kdbench.analysis.tables.differences import against, by_pair, choose_baseline, pooled_table
    from kdbench.analysis.tables.leaderboard import pairwise_table

    if other is not None:
        from kdbench.analysis.tables.two_cells import two_cells

        typed = [parameter for parameter in context.command.params if _is_typed(context, parameter.name)]
        if extra := [each.opts[0] for each in typed if each.name not in ("runs", "other", "form")]:
            raise UserError(f"{', '.join(extra)}: not for two cells; leave it out, or name one folder of runs")
        print_tables(two_cells(runs, other), form)
        return
    if (runs / RECORD).is_file():
        raise UserError(f"{runs} is the folder of one cell: type that of a second one behind it, or a folder of runs")
    reported = _reported(epoch, measure)
    selection = read_selection(
        runs, protocol=protocol, rules=rules, methods=methods, pairs=pairs, baseline=baseline, reported=reported
    )

    def tables_of(comparison: Comparison) -> list[Table]:
        base = choose_baseline(comparison, baseline)
        results = against(comparison, base, reported, margin, by_teacher=by_teacher)
        tables = []
        if results:
            tables += [
                by_pair(comparison, base, results, reported),
                pooled_table(comparison, base, results, reported, margin, by_teacher=by_teacher),
            ]
        return [*tables, pairwise_table(comparison, reported)] if pairwise else tables

    tables = selection.each(tables_of)
    if not tables:
        raise UserError(
            f"no two methods in {runs} have records of the same pair and seed: run them with the same seeds"
        )
    print_tables(tables, form)
    selection.finish()


def claims(
    runs: RunsArgument = Path("runs"),
    form: Form = "terminal",
    methods: MethodsOption = None,
    pairs: PairsOption = None,
    protocol: ProtocolFilter = None,
    rules: RulesOption = None,
) -> None:
    """Compare your results with published ones.

    Prints both values, the interval of their difference, and a verdict.
    """
    from kdbench.analysis.published import ledger
    from kdbench.analysis.published.values import datasets, load_published

    selection = read_selection(runs, protocol=protocol, rules=rules, methods=methods, pairs=pairs)
    comparisons = selection.comparisons
    published = [load_published(dataset) for dataset in datasets()]
    selection.remarks.extend(dict.fromkeys(problem for values in published for problem in values.problems))
    ledgers = [(comparison, ledger.claims(comparison, values)) for comparison in comparisons for values in published]
    tables = [ledger.ledger_table(comparison, claims) for comparison, claims in ledgers if claims]
    if not tables:
        titles = "; ".join(comparison.title for comparison in comparisons)
        raise UserError(f"no values are published for these rules and pairs: {titles}")
    print_tables(tables, form)
    selection.finish()


def _is_typed(context: typer.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name or "")
    return source is not None and source.name == "COMMANDLINE"


def _reported(
    epoch: Literal["last", "validation", "best"], measure: Literal["top1", "balanced-accuracy", "macro-f1"]
) -> Reported:
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


def _published(
    dataset: str,
    sources: list[str] | None,
    methods: list[str] | None,
    pairs: list[str] | None,
    baseline: str | None,
    marks: Marks,
) -> list[Table]:
    from kdbench.analysis.published.printed import printed_table
    from kdbench.analysis.published.tables import published_tables
    from kdbench.analysis.published.values import load_published
    from kdbench.experiment.pairs import named_pairs

    sets = named_pairs()
    networks = [str(pair) for name in pairs or [] for pair in (sets[name].pairs if name in sets else (name,))]
    published = load_published(dataset)
    for problem in published.problems:
        write_error(problem)
    values = published.select(split_names(methods) or None, split_names(sources) or None, networks or None)
    if values.frame.empty:
        raise UserError("no values are published for this combination of methods, sources and pairs")
    source = names[0] if len(names := split_names(sources)) == 1 else None
    if source and values.is_printed(source):
        return [printed_table(values, source, baseline, "none" if marks == "none" else "all")]
    if baseline is not None:
        raise UserError("--baseline needs one source that is a printed table, for example --source pckd")
    return published_tables(values)
