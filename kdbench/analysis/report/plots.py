"""The plots of a comparison: curves, accuracy against cost, ranks and differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kdbench.analysis.comparison import ComparedPair, Comparison, Row
from kdbench.analysis.report.curves import Band, Curves, Quantity, band
from kdbench.analysis.report.drawing import COLOURS, INK, Look, Plot, label, looks
from kdbench.analysis.report.names import name_points
from kdbench.analysis.tables.differences import Versus, pooled_entry
from kdbench.analysis.tables.entries import LEVEL, fixed
from kdbench.analysis.tables.layouts import top1_words
from kdbench.analysis.tables.leaderboard import Leaderboard

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.6
"""Inches of every plot."""
QUANTITIES: dict[Quantity, tuple[str, str]] = {
    "top1": ("top-1 on the test set, %", "Top-1 accuracy by epoch"),
    "loss": ("training loss", "Training loss by epoch"),
}
_WIDE_RANGE = 8.0
"""Largest over smallest value from which an axis is logarithmic."""


def curves_plot(
    comparison: Comparison, pair: ComparedPair, curves: Curves, quantity: Quantity, name: str
) -> Plot | None:
    """Mean over seeds in each epoch, with a band from the lowest to the highest; None where no cell has a curve."""
    found: dict[Row, Band] = {}
    for row in comparison.rows:
        result = comparison.result(row, pair)
        own = band(curves.of(result.frame["folder"]), quantity) if result else None
        if own:
            found[row] = own
    if not found:
        return None
    style = looks(comparison)
    order = sorted(found, key=lambda row: -found[row].mean[-1])
    columns = _legend_columns(list(found))
    figure, axes = _figure(3.3 + 0.2 * math.ceil(len(found) / columns))
    for row, own in found.items():
        _draw_band(axes, own, style[row])
    values = [value for own in found.values() for value in (*own.low, *own.high)]
    if quantity == "loss" and min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
        _logarithmic(axes, "y")
    axes.set_xlabel("epoch")
    axes.set_ylabel(QUANTITIES[quantity][0])
    axes.set_title(label(pair.name))
    _legend(figure, list(found), style, columns)
    title = f"{QUANTITIES[quantity][1]}, {pair.name}"
    ends = ", ".join(f"{row.label} {fixed(found[row].mean[-1])}" for row in order)
    words = "Mean over seeds, with a band from the lowest to the highest seed. At the end: "
    return Plot(name, title, f"{words}{ends}.", figure)


def cost_plot(board: Leaderboard, name: str) -> Plot | None:
    """Accuracy against training time, or against views where times cannot be compared; None without two methods."""
    shown = [own for own in board.standings if not math.isnan(own.rank)]
    if len(shown) < 2:
        return None
    timed = all(math.isfinite(own.relative_time) for own in shown)
    costs = [(own, own.relative_time if timed else float(own.row.views)) for own in shown]
    style = looks(board.comparison)
    figure, axes = _figure(3.7)
    for own, cost in costs:
        look = style[own.row]
        size = 90 if look.marker == "*" else 42
        axes.scatter([cost], [own.mean], s=size, marker=look.marker, color=look.colour, zorder=3)
    if max(cost for _, cost in costs) > 4 * min(cost for _, cost in costs):
        _logarithmic(axes, "x")
    alone = board.comparison.alone
    axes.set_xlabel(
        f"training time, relative to {label(alone.label)}" if timed and alone else "views of an image in a step"
    )
    axes.set_ylabel("top-1, mean over pairs, %")
    axes.margins(0.14, 0.12)
    name_points(figure, axes, [(cost, own.mean, label(own.row.label)) for own, cost in costs])
    unit = "times the training time" if timed else "views"
    told = ", ".join(f"{own.row.label} {fixed(own.mean)} % at {cost:.3g} {unit}" for own, cost in costs)
    where = top1_words(board.comparison, board.epoch)
    return Plot(name, "Accuracy against cost", f"{where}, mean over pairs: {told}.", figure)


def ranks_plot(board: Leaderboard, name: str) -> Plot | None:
    """Critical-difference diagram (Demsar 2006): methods on a scale of ranks, those not told apart under one bar."""
    ranking = board.ranking
    if ranking is None:
        return None
    order = sorted(range(len(board.ranked)), key=lambda index: ranking.average_ranks[index])
    ranks = [float(ranking.average_ranks[index]) for index in order]
    names = [label(board.ranked[index].label) for index in order]
    num, critical = len(order), ranking.critical_difference
    half = math.ceil(num / 2)
    first = 0.5 + 0.28 * len(ranking.cliques)
    depth = first + 0.6 * (half - 1)
    figure, axes = _figure(0.75 + 0.38 * (depth + 1.3))
    axes.axis("off")
    end = max(float(num), 1 + critical)
    pad = 0.04 * (end - 1)
    axes.set(xlim=(1 - pad, end + pad), ylim=(-depth - 0.4, 1.9))
    axes.plot([1, num], [0, 0], color=INK, linewidth=1, clip_on=False)
    for tick in range(1, num + 1):
        axes.plot([tick, tick], [0, 0.12], color=INK, linewidth=1)
        axes.text(tick, 0.22, str(tick), ha="center", va="bottom", fontsize=10)
    axes.plot([1, 1 + critical], [1.15, 1.15], color=INK, linewidth=1.2)
    for tip in (1.0, 1 + critical):
        axes.plot([tip, tip], [1.05, 1.25], color=INK, linewidth=1.2)
    text = f"critical difference {critical:.2f} ({100 * (1 - ranking.level):.0f} %)"
    axes.text(1, 1.35, text, ha="left", va="bottom", fontsize=10)
    for place, (rank, name_) in enumerate(zip(ranks, names, strict=True)):
        left = place < half
        height = -first - 0.6 * (place if left else num - 1 - place)
        edge = 1 - pad if left else num + pad
        axes.plot([rank, rank, edge], [0, height, height], color=INK, linewidth=0.8, clip_on=False)
        shown = f"{name_}  {rank:.2f}" if left else f"{rank:.2f}  {name_}"
        axes.annotate(
            shown, (edge, height), (-4 if left else 4, 0), textcoords="offset points", va="center",
            ha="right" if left else "left",
        )  # fmt: skip
    for number, group in enumerate(ranking.cliques):
        own = [float(ranking.average_ranks[index]) for index in group]
        height = -0.25 - 0.28 * number
        axes.plot(
            [min(own) - pad / 3, max(own) + pad / 3], [height, height], color=COLOURS[0], linewidth=3.5, clip_on=False
        )
    told = ", ".join(f"{board.ranked[index].label} {ranking.average_ranks[index]:.2f}" for index in order)
    groups = "; ".join(", ".join(board.ranked[index].label for index in group) for group in ranking.cliques)
    apart = f"Not told apart: {groups}." if groups else "All are told apart."
    return Plot(
        name, "Average ranks with the critical difference", f"1 is best: {told}. {text.capitalize()}. {apart}", figure
    )


def differences_plot(comparison: Comparison, baseline: Row, found: Sequence[Versus], name: str) -> Plot | None:
    """Forest plot: pooled differences to a baseline with their intervals, and the mean of each pair as a dot."""
    if not found:
        return None
    style = looks(comparison)
    order = sorted(found, key=lambda own: own.mean)
    figure, axes = _figure(0.95 + 0.33 * len(order))
    axes.axvline(0, color=INK, linewidth=0.8)
    for height, own in enumerate(order):
        look = style[own.row]
        if len(own.pairs) > 1:
            dots = list(own.means.values())
            axes.scatter(dots, [height] * len(dots), s=14, color=look.colour, alpha=0.35, linewidths=0, zorder=2)
        if own.pooled:
            axes.plot([own.pooled.low, own.pooled.high], [height, height], color=look.colour, linewidth=2.2, zorder=3)
        axes.scatter([own.mean], [height], s=36, marker=look.marker, color=look.colour, zorder=4)
        axes.annotate(
            pooled_entry(own).text, (1, height), (6, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=10,
        )  # fmt: skip
    axes.set_yticks(range(len(order)), [label(own.row.label) for own in order])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"difference to {label(baseline.label)}, percentage points")
    told = "; ".join(f"{own.row.label} {pooled_entry(own).text}" for own in reversed(order))
    words = f"Percentage points of top-1, paired by seed, mean over pairs [{LEVEL} % interval]"
    return Plot(name, f"Differences to {baseline.label}", f"{words}: {told}.", figure)


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _draw_band(axes: Axes, own: Band, look: Look) -> None:
    axes.fill_between(own.epochs, own.low, own.high, color=look.colour, alpha=0.16, linewidth=0)
    axes.plot(
        own.epochs,
        own.mean,
        color=look.colour,
        linestyle=look.line,
        linewidth=1.5,
        marker=look.marker,
        markersize=4.5,
        markevery=max(1, len(own.epochs) // 6),
    )


def _legend_columns(rows: Sequence[Row]) -> int:
    """As many as fit beside each other."""
    longest = max(len(label(row.label)) for row in rows)
    return max(1, min(4, len(rows), 56 // (longest + 7)))


def _legend(figure: Figure, rows: Sequence[Row], style: Mapping[Row, Look], columns: int) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    handles = [
        Line2D(
            [], [], color=style[row].colour, marker=style[row].marker, linestyle=style[row].line, linewidth=1.5,
            markersize=4.5,
        )
        for row in rows
    ]  # fmt: skip
    figure.legend(
        handles, [label(row.label) for row in rows], loc="outside lower center", ncols=columns, handlelength=2.6
    )


def _logarithmic(axes: Axes, which: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    if which == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
