"""What the page shows of each comparison: its tables, its plots, and why something is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from kdbench.analysis.comparison import Comparison, settings_text
from kdbench.analysis.report.cells import CELLS_LISTED, Cells
from kdbench.analysis.report.curves import CELLS_READ, Curves, read_curves
from kdbench.analysis.report.drawing import Drawn, Plot, draw, styled
from kdbench.analysis.report.markup import table_html
from kdbench.analysis.report.plots import QUANTITIES, cost_plot, curves_plot, differences_plot, ranks_plot
from kdbench.analysis.tables.differences import pooled_table
from kdbench.analysis.tables.layouts import detail, paper
from kdbench.analysis.tables.leaderboard import Leaderboard, leaderboard, leaderboard_table, stability_notes

Told = Callable[[str, float], None]
"""Is told what is being done, and which part of all is done."""


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
    cost: Drawn | None = None
    ranks: Drawn | None = None
    differences: Drawn | None = None
    curves: list[tuple[str, str, list[Drawn]]] = field(default_factory=list)
    """A heading, a note, and a plot for each pair."""
    curve_notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Why there is no such plot, by its field."""

    @property
    def drawn(self) -> list[Drawn]:
        """All its plots."""
        single = [plot for plot in (self.differences, self.cost, self.ranks) if plot]
        return single + [plot for _, _, plots in self.curves for plot in plots]


def make_sections(found: Sequence[Comparison], cells: Cells, tell: Told) -> list[Section]:
    """The sections of a page, in the order of the comparisons; ``cells`` takes all their cells."""
    tell("comparing methods", 0.0)
    boards = [leaderboard(one) for one in found]
    stability = stability_notes(found)
    names = _names(found)
    shown = []
    with styled():
        for number, (board, lines) in enumerate(zip(boards, stability, strict=True)):
            within = _within(tell, 0.3 + 0.7 * number / len(found), 0.7 / len(found))
            shown.append(_section(board, lines, f"c{number + 1}", names[number], cells, within))
    return shown


def file_name(text: str) -> str:
    """A name for a file that is safe on every system: letters, digits, ``.``, ``_`` and ``-``."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text)[:60].strip(".-_") or "x"


def _section(board: Leaderboard, stability: Sequence[str], ident: str, name: str, cells: Cells, tell: Told) -> Section:
    comparison = board.comparison
    tell("reading curves", 0.0)
    curves = read_curves(comparison)
    tell("reading cells", 0.1)
    cells.add(comparison, ident, curves)
    tell("writing tables", 0.2)
    alone = comparison.alone
    versus = [own.versus for own in board.standings if own.versus]
    table, filled = cells.table(comparison, ident)
    families = [own.row.family for own in board.standings]
    shown = Section(
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
        pooled=table_html(pooled_table(comparison, alone, versus), f"{ident}-pooled-table")
        if alone and versus
        else None,
        details=[
            (pair.name, table_html(detail(comparison, pair), f"{ident}-pair-{number}"))
            for number, pair in enumerate(comparison.pairs, 1)
        ],
        cells=table_html(table, f"{ident}-cells-table", filled=filled),
        cells_notes=_cells_notes(comparison),
        rules=[(key, json.dumps(value) if isinstance(value, list | dict) else str(value))
               for key, value in comparison.rules.items()],
    )  # fmt: skip
    tell("drawing", 0.25)
    for key, plot in _single(board, name).items():
        if isinstance(plot, Plot):
            setattr(shown, key, draw(plot))
        else:
            shown.missing[key] = plot
    _add_curves(shown, comparison, curves, name, _within(tell, 0.3, 0.7))
    return shown


def _single(board: Leaderboard, name: str) -> dict[str, Plot | str]:
    """The plots that a comparison has one of, or why it has none."""
    comparison, alone = board.comparison, board.comparison.alone
    versus = [own.versus for own in board.standings if own.versus]
    return {
        "differences": (differences_plot(comparison, alone, versus, f"{name}-differences") if alone else None)
        or "No differences to the student alone: no pair has records of one seed with a method and without a teacher.",
        "cost": cost_plot(board, f"{name}-cost")
        or "No plot of accuracy against cost: fewer than two methods have a record in every pair.",
        "ranks": ranks_plot(board, f"{name}-ranks")
        or "No critical-difference diagram: ranks are tested with three methods or more that have a record in every "
        f"pair, and two pairs or more; here are {_count(len(board.ranked), 'method')} and "
        f"{_count(len(comparison.pairs), 'pair')}.",
    }


def _add_curves(shown: Section, comparison: Comparison, curves: Curves, name: str, tell: Told) -> None:
    """A plot for each quantity and pair, and what is missing or was left out."""
    notes = {
        "top1": "Mean over seeds on the test set, in the epochs that all seeds of a method have; the band reaches from "
        "the lowest to the highest seed.",
        "loss": "Mean over seeds of the sum of all losses that a method minimises; the band reaches from the lowest to "
        "the highest seed. Methods minimise different sums: compare shapes, not heights.",
    }
    used = set()
    for step, (quantity, (_, heading)) in enumerate(QUANTITIES.items()):
        plots = []
        for number, pair in enumerate(comparison.pairs):
            tell(f"drawing curves of {pair.name}", (step + number / len(comparison.pairs)) / 2)
            own = file_name(f"{name}-{quantity}-{pair.name}")
            own = own if own.lower() not in used else f"{own}-{number + 1}"
            used.add(own.lower())
            plot = curves_plot(comparison, pair, curves, quantity, own)
            plots += [draw(plot)] if plot else []
        if plots:
            shown.curves.append((heading, notes[quantity], plots))
    num_missing = curves.num_read - len(curves.by_folder)
    if not curves.by_folder:
        shown.missing["curves"] = (
            f"No curves: none of the {curves.num_read} cells that were asked has a readable metrics.jsonl in its "
            "folder."
        )
    elif num_missing:
        verb = "cell has" if num_missing == 1 else "cells have"
        shown.curve_notes.append(f"{num_missing} {verb} no metrics.jsonl and are not in the curves.")
    if curves.num_skipped:
        shown.curve_notes.append(
            f"Curves are those of the first {CELLS_READ} seeds of each method and pair; {curves.num_skipped} cells "
            "more are not in them."
        )
    shown.curve_notes += [f"{problem}." for problem in curves.problems]


def _summary(comparison: Comparison) -> str:
    num_pairs = len(comparison.pairs)
    cells = {cell for result in comparison.results.values() for cell in result.frame["cell"]}
    own = [row for row in comparison.rows if row != comparison.alone]
    words = f"{_count(len(cells), 'record')} of {_count(len(own), 'method')} on {_count(num_pairs, 'pair')}"
    changed = f"; changed: {settings_text(comparison.overrides)}" if comparison.overrides else ""
    with_alone = f", and {comparison.alone.label} as the student alone" if comparison.alone else ""
    return f"{words}{with_alone}{changed}"


def _cells_notes(comparison: Comparison) -> list[str]:
    sizes = [len(result.frame) for result in comparison.results.values()]
    notes = ["A seed opens its cell: metrics, cost, settings, configuration and environment."]
    if max(sizes, default=0) > CELLS_LISTED:
        notes.append(f"The first {CELLS_LISTED} seeds of each method and pair are listed; the others on request.")
    return notes


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _names(found: Sequence[Comparison]) -> list[str]:
    """What the files of each comparison begin with."""
    plain = [file_name(str(one.rules["name"])) for one in found]
    lower = [name.lower() for name in plain]
    return [f"{name}-{number}" if lower.count(name.lower()) > 1 else name for number, name in enumerate(plain, 1)]


def _within(tell: Told, start: float, share: float) -> Told:
    """Tell the part of a part."""
    return lambda what, part: tell(what, start + share * part)
