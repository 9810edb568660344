"""Plot what searches of fewer trials would have found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from kdbench.analysis.comparison import ComparedPair, Comparison
from kdbench.analysis.plots.drawing import Look, Plot, label, look_of, looks
from kdbench.analysis.plots.figures import figure_of, legend_below, legend_columns
from kdbench.analysis.searches import Search
from kdbench.analysis.tables.entries import fixed

_FURTHER = (0, (1, 1.2))
"""Line of a further study of a method."""


def best_of_n_plot(comparison: Comparison, pair: ComparedPair, name: str) -> Plot | None:
    """Plot the expected best of 1, 2, 3, ... trials of each search on a pair; None if none has ranked its trials."""
    searches = [
        each for each in comparison.searches if each.is_for(pair.teacher_id, pair.student) and each.study.first_scores
    ]
    if not searches:
        return None
    style = _looks(comparison, searches)
    names = {label(each.label): look for each, look in zip(searches, style, strict=True)}
    figure, axes = figure_of(3.3 + 0.2 * math.ceil(len(names) / legend_columns(names, lines=True)))
    ends = []
    for each, look in zip(searches, style, strict=True):
        numbers = range(1, each.num_trials + 1)
        best = [each.best_of(number) for number in numbers]
        axes.plot(
            numbers, best, color=look.colour, linestyle=look.line, linewidth=1.5, marker=look.marker, markersize=4.5,
            markevery=max(1, len(numbers) // 8),
        )  # fmt: skip
        ends.append(f"{each.label} {fixed(best[0])} of 1, {fixed(best[-1])} of {len(best)}")
    axes.locator_params("x", integer=True)
    axes.set_xlabel("trials")
    axes.set_ylabel("expected best, held-out %")
    axes.set_title(label(pair.name))
    legend_below(figure, names, lines=True)
    description = (
        "Top-1 on held-out training images that is expected of the best of so many trials, with the epochs of the "
        f"first rung: {'; '.join(ends)}."
    )
    return Plot(name, f"Expected best of n trials, {pair.name}", description, figure)


def _looks(comparison: Comparison, searches: Sequence[Search]) -> list[Look]:
    """Choose the look of each search: that of its method, with other lines and markers for further studies."""
    of_rows = looks(comparison)
    of_methods = {row.method: of_rows[row] for row in reversed(comparison.rows)}
    chosen = [of_methods.get(each.study.method, look_of(number)) for number, each in enumerate(searches)]
    return [
        replace(look, line=_FURTHER, marker=look_of(each.study.study).marker) if each.study.study > 1 else look
        for look, each in zip(chosen, searches, strict=True)
    ]
