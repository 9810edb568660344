"""Make the section of each comparison: its tables, its plots, and reasons for missing ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from markupsafe import Markup

from kdbench.analysis.comparison import Comparison, settings_text
from kdbench.analysis.plots.curves import CELLS_READ, Curves
from kdbench.analysis.plots.drawing import DrawnPlot, Plot, draw, styled
from kdbench.analysis.plots.file_names import distinct_names
from kdbench.analysis.plots.pictures import OF_PAIRS, SINGLE, Material, OnProgress, draw_pairs, draw_single
from kdbench.analysis.report.cells import CELLS_LISTED, Cells
from kdbench.analysis.report.classes import read_classes
from kdbench.analysis.report.markup import table_html
from kdbench.analysis.tables.differences import pooled_table
from kdbench.analysis.tables.layouts import detail, paper
from kdbench.analysis.tables.leaderboard import leaderboard_table, stability_notes
from kdbench.analysis.tables.searches import searches_tables, trials_tables
from kdbench.utils.text import counted

_CURVES = ("top1", "loss", "losses")
_PREDICTIONS = ("classes", "reliability", "correlation", "tsne")
_BUDGETS = ("best-of-n",)
"""Pictures of each pair, by the part of the section that they are in."""


@dataclass(slots=True)
class Section:
    """One comparison on the page."""

    ident: str
    title: str
    summary: str
    families: list[str]
    leaderboard: Markup
    paper: Markup
    pooled: Markup | None
    details: list[tuple[str, Markup]]
    cells: Markup
    cells_notes: list[str]
    rules: list[tuple[str, str]]
    cost: DrawnPlot | None = None
    ranks: DrawnPlot | None = None
    differences: DrawnPlot | None = None
    curves: list[tuple[str, str, list[DrawnPlot]]] = field(default_factory=list)
    """Heading, note and a plot for each pair, of each picture."""
    curve_notes: list[str] = field(default_factory=list)
    classes: list[tuple[str, Markup, list[tuple[str, Markup]]]] = field(default_factory=list)
    """Of each pair, its accuracies by class and the confusion matrix of each method."""
    predictions: list[tuple[str, str, list[DrawnPlot]]] = field(default_factory=list)
    """Heading, note and a plot for each pair, of each picture."""
    prediction_notes: list[str] = field(default_factory=list)
    searches: list[Markup] = field(default_factory=list)
    """Tables of searches of settings, and of their trials; empty without any."""
    budgets: list[tuple[str, str, list[DrawnPlot]]] = field(default_factory=list)
    """Heading, note and a plot for each pair, of what fewer trials would have found."""
    missing: dict[str, str] = field(default_factory=dict)
    """Reasons for missing plots, by field."""

    @property
    def plots(self) -> list[DrawnPlot]:
        """All plots of the section."""
        single = [plot for plot in (self.differences, self.cost, self.ranks) if plot]
        return single + [plot for _, _, plots in (*self.curves, *self.predictions, *self.budgets) for plot in plots]


def make_sections(
    comparisons: Sequence[Comparison], frame: pd.DataFrame, cells: Cells, on_progress: OnProgress
) -> list[Section]:
    """Make the sections of a page, in the order of the comparisons, and add all their cells to ``cells``.

    Parameters
    ----------
    frame
        All records of the runs, those of teachers among them.
    """
    on_progress("comparing methods", 0.0)
    stability = stability_notes(comparisons)
    names = distinct_names([comparison.title for comparison in comparisons])
    sections = []
    with styled():
        for number, (comparison, notes) in enumerate(zip(comparisons, stability, strict=True)):
            material = Material.of(comparison, frame)
            on_part = _part_of(on_progress, 0.3 + 0.7 * number / len(comparisons), 0.7 / len(comparisons))
            sections.append(_section(material, notes, f"c{number + 1}", names[number], cells, on_part))
    return sections


def _section(
    material: Material, stability: Sequence[str], ident: str, name: str, cells: Cells, on_progress: OnProgress
) -> Section:
    comparison, board = material.comparison, material.board
    on_progress("reading curves", 0.0)
    curves = material.curves
    on_progress("reading cells", 0.1)
    cells.add(comparison, ident, curves)
    on_progress("writing tables", 0.2)
    baseline = comparison.student_only
    results = [standing.versus for standing in board.standings if standing.versus]
    table, filled = cells.table(comparison, ident)
    families = [standing.row.family for standing in board.standings]
    section = Section(
        ident=ident,
        title=comparison.title,
        summary=_summary(comparison),
        families=list(dict.fromkeys(row.family for row in comparison.rows)),
        leaderboard=table_html(
            leaderboard_table(board, stability),
            f"{ident}-leaderboard-table",
            attributes=[{"family": family} for family in families],
            sortable=True,
        ),
        paper=table_html(paper(comparison), f"{ident}-paper-table"),
        pooled=table_html(pooled_table(comparison, baseline, results), f"{ident}-pooled-table")
        if baseline and results
        else None,
        details=[
            (pair.name, table_html(detail(comparison, pair), f"{ident}-pair-{number}"))
            for number, pair in enumerate(comparison.pairs, 1)
        ],
        cells=table_html(table, f"{ident}-cells-table", filled=filled),
        cells_notes=_cells_notes(comparison),
        rules=[(key, json.dumps(value) if isinstance(value, list | dict) else str(value))
               for key, value in {**comparison.rules, "dataset": comparison.dataset}.items()],
    )  # fmt: skip
    _add_classes(section, material, cells.problems)
    if comparison.searches:
        tables = [*searches_tables(comparison.searches), *trials_tables(comparison.searches)]
        section.searches = [table_html(each, f"{ident}-search-{number}") for number, each in enumerate(tables, 1)]
    on_progress("drawing", 0.25)
    for key in SINGLE:
        plot = draw_single(key, material, name)
        if isinstance(plot, Plot):
            setattr(section, key, draw(plot))
        else:
            section.missing[key] = plot
    section.curves, _ = _drawn(_CURVES, material, name, _part_of(on_progress, 0.3, 0.3))
    _add_curve_notes(section, curves)
    section.predictions, section.prediction_notes = _drawn(
        _PREDICTIONS, material, name, _part_of(on_progress, 0.6, 0.4)
    )
    if comparison.searches:
        section.budgets, _ = _drawn(_BUDGETS, material, name, _part_of(on_progress, 1.0, 0.0))
    return section


def _drawn(
    names: Sequence[str], material: Material, base: str, on_progress: OnProgress
) -> tuple[list[tuple[str, str, list[DrawnPlot]]], list[str]]:
    """Draw pictures of each pair; returns heading, note and plots of each picture, and the reasons for missing ones."""
    plots: dict[str, list[DrawnPlot]] = {name: [] for name in names}
    reasons: dict[str, list[str]] = {name: [] for name in names}
    for name, plot in draw_pairs(names, material, base, on_progress):
        if isinstance(plot, Plot):
            plots[name].append(draw(plot))
        else:
            reasons[name].append(plot)
    notes = []
    for name in names:
        notes += reasons[name] if plots[name] else reasons[name][:1]
    return [(OF_PAIRS[name].title, OF_PAIRS[name].note, plots[name]) for name in names if plots[name]], notes


def _add_classes(section: Section, material: Material, problems: list[str]) -> None:
    """Add accuracies by class and confusion matrices, or the reason why there are none."""
    classes = read_classes(material, problems)
    if isinstance(classes, str):
        section.missing["classes"] = classes
        return
    for number, each in enumerate(classes, 1):
        ident = f"{section.ident}-classes-{number}"
        matrices = [
            (label, table_html(table, f"{ident}-confusion-{place}"))
            for place, (label, table) in enumerate(each.confusions, 1)
        ]
        section.classes.append((each.pair, table_html(each.accuracies, ident), matrices))


def _add_curve_notes(section: Section, curves: Curves) -> None:
    """Add notes on missing curves."""
    num_missing = curves.num_read - len(curves.by_folder)
    if not curves.by_folder:
        section.missing["curves"] = (
            f"No curves: of {counted(curves.num_read, 'cell')}, none has a readable metrics.jsonl in its folder."
        )
    elif num_missing:
        section.curve_notes.append(
            f"{counted(num_missing, 'cell')} without a readable metrics.jsonl left out of the curves."
        )
    if curves.num_skipped:
        section.curve_notes.append(
            f"Curves show the first {CELLS_READ} seeds of each method and pair, without "
            f"{counted(curves.num_skipped, 'more cell')}."
        )
    section.curve_notes += [f"{problem}." for problem in curves.problems]


def _summary(comparison: Comparison) -> str:
    num_pairs = len(comparison.pairs)
    cells = {cell for result in comparison.results.values() for cell in result.frame["cell"]}
    baseline = comparison.student_only
    rows = [row for row in comparison.rows if row != baseline]
    num_methods = len({row.method for row in rows})
    variants = f" in {counted(len(rows), 'variant')}" if len(rows) > num_methods else ""
    methods = f"{counted(num_methods, 'method')}{variants}"
    counts = f"{counted(len(cells), 'record')} of {methods} on {counted(num_pairs, 'pair')}"
    with_baseline = f", with {baseline.label} as the student-only baseline" if baseline else ""
    changed = f"; changed rules: {settings_text(comparison.overrides)}" if comparison.overrides else ""
    return f"{counts}{with_baseline}{changed}"


def _cells_notes(comparison: Comparison) -> list[str]:
    sizes = [len(result.frame) for result in comparison.results.values()]
    notes = ["Click a seed to open its cell: metrics, cost, settings, configuration and environment."]
    if max(sizes, default=0) > CELLS_LISTED:
        notes.append(
            f"The first {CELLS_LISTED} seeds of each method and pair are listed; the others are shown on request."
        )
    return notes


def _part_of(on_progress: OnProgress, start: float, share: float) -> OnProgress:
    """Return a callback for a part of the work, from ``start`` for a ``share`` of the whole."""
    return lambda work, done: on_progress(work, start + share * done)
