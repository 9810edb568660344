"""Make the section of each comparison: its tables, its plots, and reasons for missing ones."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from kdbench.analysis.comparison import Comparison, settings_text
from kdbench.analysis.report.cells import CELLS_LISTED, Cells
from kdbench.analysis.report.classes import read_classes
from kdbench.analysis.report.curves import CELLS_READ, Curves, read_curves
from kdbench.analysis.report.drawing import DrawnPlot, Plot, draw, styled
from kdbench.analysis.report.markup import table_html
from kdbench.analysis.report.plots import QUANTITIES, cost_plot, curves_plot, differences_plot, ranks_plot
from kdbench.analysis.tables.differences import pooled_table
from kdbench.analysis.tables.layouts import detail, paper
from kdbench.analysis.tables.leaderboard import Leaderboard, leaderboard, leaderboard_table, stability_notes
from kdbench.utils.text import counted

_MAX_NAME = 60
"""Largest number of letters of a comparison or a pair in the name of a file."""
OnProgress = Callable[[str, float], None]
"""Called with the current work and the fraction that is done."""


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
    """Heading, note and a plot for each pair, of each quantity."""
    curve_notes: list[str] = field(default_factory=list)
    classes: list[tuple[str, Markup, list[tuple[str, Markup]]]] = field(default_factory=list)
    """Of each pair, its accuracies by class and the confusion matrix of each method."""
    missing: dict[str, str] = field(default_factory=dict)
    """Reasons for missing plots, by field."""

    @property
    def plots(self) -> list[DrawnPlot]:
        """All plots of the section."""
        single = [plot for plot in (self.differences, self.cost, self.ranks) if plot]
        return single + [plot for _, _, plots in self.curves for plot in plots]


def make_sections(comparisons: Sequence[Comparison], cells: Cells, on_progress: OnProgress) -> list[Section]:
    """Make the sections of a page, in the order of the comparisons, and add all their cells to ``cells``."""
    on_progress("comparing methods", 0.0)
    boards = [leaderboard(comparison) for comparison in comparisons]
    stability = stability_notes(comparisons)
    names = _unlike([comparison.title for comparison in comparisons])
    sections = []
    with styled():
        for number, (board, notes) in enumerate(zip(boards, stability, strict=True)):
            on_part = _part_of(on_progress, 0.3 + 0.7 * number / len(comparisons), 0.7 / len(comparisons))
            sections.append(_section(board, notes, f"c{number + 1}", names[number], cells, on_part))
    return sections


def file_name(text: str) -> str:
    """Make a file name of letters, digits, ``.``, ``_`` and ``-``, safe on every system; a long one has a hash."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip(".-_")
    return name or "x" if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME].strip('.-_')}-{_hash(text)}"


def _unlike(texts: Sequence[str]) -> list[str]:
    """Make a file name of each text; it depends on the others only if they differ in nothing but case and signs."""
    names = [file_name(text) for text in texts]
    lower = [name.lower() for name in names]
    return [
        f"{name}-{_hash(text)}" if lower.count(name.lower()) > 1 else name
        for name, text in zip(names, texts, strict=True)
    ]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]


def _section(
    board: Leaderboard, stability: Sequence[str], ident: str, name: str, cells: Cells, on_progress: OnProgress
) -> Section:
    comparison = board.comparison
    on_progress("reading curves", 0.0)
    curves = read_curves(comparison)
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
    _add_classes(section, comparison, cells.problems)
    on_progress("drawing", 0.25)
    for key, plot in _single(board, name).items():
        if isinstance(plot, Plot):
            setattr(section, key, draw(plot))
        else:
            section.missing[key] = plot
    _add_curves(section, comparison, curves, name, _part_of(on_progress, 0.3, 0.7))
    return section


def _single(board: Leaderboard, name: str) -> dict[str, Plot | str]:
    """Make the single plots of a comparison, each with its field; a text gives the reason for a missing plot."""
    comparison, baseline = board.comparison, board.comparison.student_only
    results = [standing.versus for standing in board.standings if standing.versus]
    return {
        "differences": (differences_plot(comparison, baseline, results, f"{name}-differences") if baseline else None)
        or "No differences to the student-only baseline: on no pair do a method and the baseline share a seed.",
        "cost": cost_plot(board, f"{name}-cost")
        or "No plot of accuracy against cost: fewer than two methods have a record in every pair.",
        "ranks": ranks_plot(board, f"{name}-ranks")
        or "No critical-difference diagram: it needs three methods or more with records in all pairs, and two pairs. "
        f"Here are {counted(len(board.ranked), 'method')} and {counted(len(comparison.pairs), 'pair')}.",
    }


def _add_classes(section: Section, comparison: Comparison, problems: list[str]) -> None:
    """Add accuracies by class and confusion matrices, or the reason why there are none."""
    classes = read_classes(comparison, problems)
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


def _add_curves(section: Section, comparison: Comparison, curves: Curves, name: str, on_progress: OnProgress) -> None:
    """Add a plot for each quantity and pair, and notes on missing curves."""
    notes = {
        "top1": "Mean over seeds on the test set, in the epochs that all seeds of a method have. The band spans the "
        "lowest to the highest seed.",
        "loss": "Mean over seeds of the total training loss. The band spans the lowest to the highest seed. Methods "
        "minimise different losses: compare shapes, not heights.",
    }
    plot_names = _unlike([pair.name for pair in comparison.pairs])
    for step, (quantity, (_, heading)) in enumerate(QUANTITIES.items()):
        plots = []
        for number, pair in enumerate(comparison.pairs):
            on_progress(f"drawing curves of {pair.name}", (step + number / len(comparison.pairs)) / 2)
            plot_name = f"{name}-{quantity}-{plot_names[number]}"
            plot = curves_plot(comparison, pair, curves, quantity, plot_name)
            plots += [draw(plot)] if plot else []
        if plots:
            section.curves.append((heading, notes[quantity], plots))
    num_missing = curves.num_read - len(curves.by_folder)
    if not curves.by_folder:
        section.missing["curves"] = (
            f"No curves: none of the {curves.num_read} cells has a readable metrics.jsonl in its folder."
        )
    elif num_missing:
        cells = "cell without a" if num_missing == 1 else "cells without a"
        section.curve_notes.append(f"{num_missing} {cells} readable metrics.jsonl left out of the curves.")
    if curves.num_skipped:
        section.curve_notes.append(
            f"Curves show the first {CELLS_READ} seeds of each method and pair; {curves.num_skipped} more cells are "
            "left out."
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
