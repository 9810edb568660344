"""``kdbench compare`` and ``claims``: paired differences of records, and published values that they agree with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.cli.options import print_tables
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
from kdbench.experiment.folder import RECORD

if TYPE_CHECKING:
    from kdbench.analysis.comparison import Comparison
    from kdbench.analysis.tables.table import Table


def compare(
    context: typer.Context,
    runs: RunsArgument = Path("runs"),
    other: Annotated[
        Path | None,
        typer.Argument(help="With the folders of two cells: their predictions are compared image by image."),
    ] = None,
    baseline: BaselineOption = None,
    form: FormOption = "terminal",
    names: TableNamesOption = None,
    caption: CaptionOption = None,
    label: LabelOption = None,
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
    families: FamiliesOption = None,
    without_families: WithoutFamiliesOption = None,
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

    check_captions(caption, label, form)
    if other is not None:
        from kdbench.analysis.tables.two_cells import two_cells

        typed = [parameter for parameter in context.command.params if _is_typed(context, parameter.name)]
        if extra := [each.opts[0] for each in typed if each.name not in ("runs", "other", "form", "caption", "label")]:
            raise UserError(f"{', '.join(extra)}: not for two cells; leave it out, or name one folder of runs")
        print_tables(captioned(two_cells(runs, other), caption, label), form)
        return
    if (runs / RECORD).is_file():
        raise UserError(f"{runs} is the folder of one cell: type that of a second one behind it, or a folder of runs")
    reported = reported_by(epoch, measure)
    selection = read_selection(
        runs,
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
            f"no two of these methods have records of the same pair and seed in {runs}: run them with the same seeds, "
            "or select more methods and pairs"
        )
    print_tables(captioned(tables, caption, label), form)
    selection.finish()


def claims(
    runs: RunsArgument = Path("runs"),
    form: FormOption = "terminal",
    names: TableNamesOption = None,
    caption: CaptionOption = None,
    label: LabelOption = None,
    methods: MethodsOption = None,
    families: FamiliesOption = None,
    without_families: WithoutFamiliesOption = None,
    pairs: PairsOption = None,
    protocol: ProtocolFilter = None,
    rules: RulesOption = None,
) -> None:
    """Compare your results with published ones.

    Prints both values, the interval of their difference, and a verdict.
    """
    from kdbench.analysis.published import ledger
    from kdbench.analysis.published.values import datasets, load_published

    check_captions(caption, label, form)
    selection = read_selection(
        runs,
        protocol=protocol,
        rules=rules,
        methods=methods,
        families=families,
        without_families=without_families,
        pairs=pairs,
        names=names_for(names, form),
    )
    comparisons = selection.comparisons
    published = [load_published(dataset) for dataset in datasets()]
    selection.remarks.extend(dict.fromkeys(problem for values in published for problem in values.problems))
    ledgers = [(comparison, ledger.claims(comparison, values)) for comparison in comparisons for values in published]
    tables = [ledger.ledger_table(comparison, claims) for comparison, claims in ledgers if claims]
    if not tables:
        titles = "; ".join(comparison.title for comparison in comparisons)
        raise UserError(f"no values are published for these rules and pairs: {titles}")
    print_tables(captioned(tables, caption, label), form)
    selection.finish()


def _is_typed(context: typer.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name or "")
    return source is not None and source.name == "COMMANDLINE"
