"""Print the records of a folder of runs with one call from Python."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal, get_args

from kdbench.analysis.comparison import Comparison
from kdbench.analysis.records import read_records
from kdbench.analysis.splitting import split
from kdbench.analysis.tables import leaderboard as boards
from kdbench.analysis.tables.layouts import detail, paper
from kdbench.analysis.tables.render import render
from kdbench.errors import UserError
from kdbench.utils.values import argument, choice

Layout = Literal["detail", "paper"]
Form = Literal["terminal", "markdown", "csv"]
"""LaTeX, with captions, labels and printed names, is written by the commands."""


def table(runs: str | Path = "runs", *, layout: Layout = "detail", form: Form = "terminal") -> str:
    """Return finished cells as tables; what ``kdbench table`` prints.

    Parameters
    ----------
    runs
        Folder of runs, or any folder with records. A file that cannot be read as a record is left out, with a warning.
    layout
        ``detail``: all metrics of each pair; ``paper``: methods x pairs.
    form
        ``terminal``, ``markdown`` or ``csv``; ``kdbench table --format latex`` writes LaTeX.

    Raises
    ------
    kdbench.UserError
        The folder does not exist, or has no finished cells; or there is no such layout or form.
    """
    with argument("layout"):
        choice(layout, get_args(Layout))
    comparisons = _comparisons(runs, form)
    if layout == "paper":
        return render([paper(comparison) for comparison in comparisons], form)
    return render([detail(comparison, pair) for comparison in comparisons for pair in comparison.pairs], form)


def leaderboard(runs: str | Path = "runs", *, form: Form = "terminal") -> str:
    """Return methods ranked over all pairs, with the cost of each; what ``kdbench leaderboard`` prints.

    Parameters and errors are those of :func:`table`.
    """
    comparisons = _comparisons(runs, form)
    notes = boards.stability_notes(comparisons)
    ranked = map(boards.leaderboard, comparisons)
    return render([boards.leaderboard_table(*both) for both in zip(ranked, notes, strict=True)], form)


def _comparisons(runs: str | Path, form: Form) -> list[Comparison]:
    with argument("form"):
        choice(form, get_args(Form))
    records = read_records(runs)
    for problem in records.problems:
        warnings.warn(problem, stacklevel=3)
    comparisons = split(records)
    if not comparisons:
        raise UserError(f"no finished cells in {runs}: run some with kdbench.train first")
    return comparisons
