"""Plot what changes over epochs: accuracy, total training loss, and the terms of the loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kdbench.analysis.comparison import ComparedPair, Comparison, Row
from kdbench.analysis.plots.curves import TERM, Band, Curve, Curves, band
from kdbench.analysis.plots.drawing import INK, Look, Plot, label, look_of, looks
from kdbench.analysis.plots.figures import SMALL, figure_of, is_wide, legend_below, legend_columns, logarithmic, panels
from kdbench.analysis.tables.entries import fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTITIES = {
    "top1": ("top-1 on the test set, %", "Top-1 accuracy by epoch"),
    "loss": ("training loss", "Training loss by epoch"),
}
"""Label of the axis and title of the quantities that methods are compared by."""
_MAX_POINTS = 80
"""Largest number of epochs that a panel shows of a curve."""
_SUM, _TOTAL = "total", Look(INK, "", (0, (1, 1.2)))
"""Name and look of the sum of several terms."""


def curves_plot(comparison: Comparison, pair: ComparedPair, curves: Curves, quantity: str, name: str) -> Plot | None:
    """Plot the mean over seeds by epoch with a band from lowest to highest seed; None if no cell has a curve."""
    bands: dict[Row, Band] = {}
    for row, cells in _curves_of(comparison, pair, curves).items():
        row_band = band(cells, quantity)
        if row_band:
            bands[row] = row_band
    if not bands:
        return None
    style = looks(comparison)
    order = sorted(bands, key=lambda row: -bands[row].mean[-1])
    numbers = {row_band.num_curves for row_band in bands.values()}
    names = {
        f"{label(row.label)} (n = {row_band.num_curves})" if len(numbers) > 1 else label(row.label): style[row]
        for row, row_band in bands.items()
    }
    figure, axes = figure_of(3.3 + 0.2 * math.ceil(len(bands) / legend_columns(names, lines=True)))
    for row, row_band in bands.items():
        _draw_band(axes, row_band, style[row])
    values = [value for row_band in bands.values() for value in (*row_band.low, *row_band.high)]
    if quantity == "loss" and is_wide(values):
        logarithmic(axes, "y")
    axes.set_xlabel("epoch")
    axes.set_ylabel(QUANTITIES[quantity][0])
    axes.set_title(label(pair.name))
    legend_below(figure, names, lines=True)
    title = f"{QUANTITIES[quantity][1]}, {pair.name}"
    ends = ", ".join(f"{row.label} {fixed(bands[row].mean[-1])} (n = {bands[row].num_curves})" for row in order)
    description = f"Mean over n seeds, with a band from the lowest to the highest seed. At the end: {ends}."
    return Plot(name, title, description, figure)


def losses_plot(comparison: Comparison, pair: ComparedPair, curves: Curves, name: str) -> Plot | None:
    """Plot each term of the loss by epoch, mean over seeds, a panel for each method; None if no cell has terms."""
    by_row = {row: terms for row, cells in _curves_of(comparison, pair, curves).items() if (terms := _terms(cells))}
    if not by_row:
        return None
    figure, axes = panels(len(by_row), 2, 1.75, extra=0.3)
    ends = []
    for panel, (row, terms) in zip(axes, by_row.items(), strict=True):
        for number, (term, term_band) in enumerate(terms.items()):
            look = _TOTAL if term == _SUM else look_of(number)
            _draw_band(panel, _thinned(term_band), look, size=3.5, text=label(term))
        spread = [value for each in terms.values() for value in (*each.low, *each.high)]
        if is_wide(spread):
            logarithmic(panel, "y")
        lines = math.ceil(len(terms) / 2)
        panel.set_title(label(row.label), fontsize=SMALL, weight="bold", pad=3 + 1.35 * SMALL * lines)
        legend = panel.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=SMALL, handlelength=2.0, handletextpad=0.5,
            columnspacing=1.0, borderpad=0, borderaxespad=0.2, labelspacing=0.25,
        )  # fmt: skip
        legend.set_in_layout(False)  # the title above it keeps its place free
        text = ", ".join(f"{term} {fixed(each.mean[-1], 3)}" for term, each in terms.items())
        num_seeds = max(each.num_curves for each in terms.values())
        ends.append(f"{row.label} {text} (n = {num_seeds})")
    figure.supxlabel("epoch", fontsize=11)
    figure.supylabel("term of the training loss", fontsize=11)
    title = f"Terms of the training loss by epoch, {pair.name}"
    description = (
        "Each weighted term as it enters the sum that is minimised: mean over n seeds, with a band from the lowest to "
        f"the highest seed. At the end: {'; '.join(ends)}."
    )
    return Plot(name, title, description, figure)


def _curves_of(comparison: Comparison, pair: ComparedPair, curves: Curves) -> dict[Row, list[Curve]]:
    results = {row: comparison.result(row, pair) for row in comparison.rows}
    return {row: curves.of(result.frame["folder"]) for row, result in results.items() if result}


def _terms(cells: list[Curve]) -> dict[str, Band]:
    """Compute the band of each term of a method, and of their sum if there are several."""
    names = dict.fromkeys(term for cell in cells for term in cell.terms)
    bands = {name: values for name in names if (values := band(cells, f"{TERM}{name}"))}
    total = band(cells, "loss") if len(bands) > 1 and _SUM not in bands else None
    return bands | ({_SUM: total} if total else {})


def _thinned(seeds: Band) -> Band:
    """Return evenly spaced epochs of a band, the first and the last among them: a panel cannot show more."""
    last = len(seeds.epochs) - 1
    num = min(last, _MAX_POINTS - 1)
    chosen = [round(number * last / num) for number in range(num + 1)] if num else [0]
    mean, low, high = (tuple(values[place] for place in chosen) for values in (seeds.mean, seeds.low, seeds.high))
    return Band(tuple(seeds.epochs[place] for place in chosen), mean, low, high, seeds.num_curves)


def _draw_band(axes: Axes, seeds: Band, look: Look, *, size: float = 4.5, text: str | None = None) -> None:
    axes.fill_between(seeds.epochs, seeds.low, seeds.high, color=look.colour, alpha=0.16, linewidth=0)
    axes.locator_params("x", integer=True)
    axes.plot(
        seeds.epochs,
        seeds.mean,
        color=look.colour,
        linestyle=look.line,
        linewidth=1.5,
        marker=look.marker,
        markersize=size,
        markevery=max(1, len(seeds.epochs) // 6),
        label=text,
    )
