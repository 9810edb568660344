"""Plot a comparison: curves, accuracy against cost, ranks and differences."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from kdbench.analysis.comparison import ComparedPair, Comparison, Row
from kdbench.analysis.report.curves import Band, Curves, Quantity, band
from kdbench.analysis.report.drawing import COLOURS, INK, Look, Plot, label, looks
from kdbench.analysis.report.names import name_points
from kdbench.analysis.tables.differences import Versus, pooled_entry
from kdbench.analysis.tables.entries import LEVEL, fixed
from kdbench.analysis.tables.leaderboard import Leaderboard
from kdbench.analysis.tables.notes import measure_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.6
"""Width of every plot in inches."""
QUANTITIES: dict[Quantity, tuple[str, str]] = {
    "top1": ("top-1 on the test set, %", "Top-1 accuracy by epoch"),
    "loss": ("training loss", "Training loss by epoch"),
}
_WIDE_RANGE = 8.0
"""Ratio of largest to smallest value above which an axis is logarithmic."""


def curves_plot(
    comparison: Comparison, pair: ComparedPair, curves: Curves, quantity: Quantity, name: str
) -> Plot | None:
    """Plot the mean over seeds by epoch with a band from lowest to highest seed; None if no cell has a curve."""
    bands: dict[Row, Band] = {}
    for row in comparison.rows:
        result = comparison.result(row, pair)
        row_band = band(curves.of(result.frame["folder"]), quantity) if result else None
        if row_band:
            bands[row] = row_band
    if not bands:
        return None
    style = looks(comparison)
    order = sorted(bands, key=lambda row: -bands[row].mean[-1])
    numbers = {row_band.num_curves for row_band in bands.values()}
    names = {
        row: f"{label(row.label)} (n = {row_band.num_curves})" if len(numbers) > 1 else label(row.label)
        for row, row_band in bands.items()
    }
    columns = _legend_columns(names.values())
    figure, axes = _figure(3.3 + 0.2 * math.ceil(len(bands) / columns))
    for row, row_band in bands.items():
        _draw_band(axes, row_band, style[row])
    values = [value for row_band in bands.values() for value in (*row_band.low, *row_band.high)]
    if quantity == "loss" and min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
        _logarithmic(axes, "y")
    axes.set_xlabel("epoch")
    axes.set_ylabel(QUANTITIES[quantity][0])
    axes.set_title(label(pair.name))
    _legend(figure, names, style, columns)
    title = f"{QUANTITIES[quantity][1]}, {pair.name}"
    ends = ", ".join(f"{row.label} {fixed(bands[row].mean[-1])} (n = {bands[row].num_curves})" for row in order)
    description = f"Mean over n seeds, with a band from the lowest to the highest seed. At the end: {ends}."
    return Plot(name, title, description, figure)


def cost_plot(board: Leaderboard, name: str) -> Plot | None:
    """Plot accuracy against training time, or views if times are not comparable; None with fewer than two methods."""
    ranked = [standing for standing in board.standings if not math.isnan(standing.rank)]
    if len(ranked) < 2:
        return None
    timed = all(math.isfinite(standing.relative_time) for standing in ranked)
    costs = [(standing, standing.relative_time if timed else float(standing.row.views)) for standing in ranked]
    style = looks(board.comparison)
    figure, axes = _figure(3.7)
    for standing, cost in costs:
        look = style[standing.row]
        size = 90 if look.marker == "*" else 42
        axes.scatter([cost], [standing.mean], s=size, marker=look.marker, color=look.colour, zorder=3)
    if max(cost for _, cost in costs) > 4 * min(cost for _, cost in costs):
        _logarithmic(axes, "x")
    baseline = board.comparison.student_only
    axes.set_xlabel(
        f"training time, relative to {label(baseline.label)}" if timed and baseline else "views of each image per step"
    )
    axes.set_ylabel("top-1, mean over pairs, %")
    axes.margins(0.14, 0.12)
    name_points(figure, axes, [(cost, standing.mean, label(standing.row.label)) for standing, cost in costs])
    unit = "times the training time" if timed else "views"
    points = ", ".join(
        f"{standing.row.label} {fixed(standing.mean)} % (n = {standing.num_runs}) at {cost:.3g} {unit}"
        for standing, cost in costs
    )
    description = f"{measure_note(board.comparison, board.reported)}, mean over pairs and n runs: {points}."
    return Plot(name, "Accuracy against cost", description, figure)


def ranks_plot(board: Leaderboard, name: str) -> Plot | None:
    """Plot the critical-difference diagram (Demsar 2006); bars join methods that do not differ significantly."""
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
    critical_text = f"critical difference {critical:.2f} ({100 * (1 - ranking.level):.0f} %)"
    axes.text(1, 1.35, critical_text, ha="left", va="bottom", fontsize=10)
    for place, (rank, method) in enumerate(zip(ranks, names, strict=True)):
        left = place < half
        height = -first - 0.6 * (place if left else num - 1 - place)
        edge = 1 - pad if left else num + pad
        axes.plot([rank, rank, edge], [0, height, height], color=INK, linewidth=0.8, clip_on=False)
        text = f"{method}  {rank:.2f}" if left else f"{rank:.2f}  {method}"
        axes.annotate(
            text, (edge, height), (-4 if left else 4, 0), textcoords="offset points", va="center",
            ha="right" if left else "left",
        )  # fmt: skip
    for number, group in enumerate(ranking.cliques):
        bar = [float(ranking.average_ranks[index]) for index in group]
        height = -0.25 - 0.28 * number
        axes.plot(
            [min(bar) - pad / 3, max(bar) + pad / 3], [height, height], color=COLOURS[0], linewidth=3.5, clip_on=False
        )
    methods = ", ".join(f"{board.ranked[index].label} {ranking.average_ranks[index]:.2f}" for index in order)
    groups = "; ".join(", ".join(board.ranked[index].label for index in group) for group in ranking.cliques)
    verdict = f"Not significantly different: {groups}." if groups else "All differ significantly."
    description = f"1 is best: {methods}. {critical_text.capitalize()}. {verdict}"
    return Plot(name, "Average ranks with the critical difference", description, figure)


def differences_plot(comparison: Comparison, baseline: Row, results: Sequence[Versus], name: str) -> Plot | None:
    """Plot pooled differences to a baseline with their intervals (forest plot), and the mean of each pair as a dot."""
    if not results:
        return None
    style = looks(comparison)
    order = sorted(results, key=lambda versus: versus.mean)
    same_n = len({versus.num_seeds for versus in results}) == 1
    figure, axes = _figure(0.95 + 0.33 * len(order))
    axes.axvline(0, color=INK, linewidth=0.8)
    for height, versus in enumerate(order):
        look = style[versus.row]
        if len(versus.pairs) > 1:
            dots = list(versus.means.values())
            axes.scatter(dots, [height] * len(dots), s=14, color=look.colour, alpha=0.35, linewidths=0, zorder=2)
        interval = versus.pooled
        if interval:
            axes.plot([interval.low, interval.high], [height, height], color=look.colour, linewidth=2.2, zorder=3)
        axes.scatter([versus.mean], [height], s=36, marker=look.marker, color=look.colour, zorder=4)
        text = pooled_entry(versus).text + ("" if same_n else f" (n = {versus.num_seeds})")
        axes.annotate(
            text, (1, height), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
            fontsize=10,
        )  # fmt: skip
    axes.set_yticks(range(len(order)), [label(versus.row.label) for versus in order])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"difference to {label(baseline.label)}, percentage points")
    entries = "; ".join(
        f"{versus.row.label} {pooled_entry(versus).text} (n = {versus.num_seeds})" for versus in reversed(order)
    )
    description = (
        f"Percentage points of top-1, paired by seed, mean over pairs [{LEVEL} % interval] of n differences: {entries}."
    )
    return Plot(name, f"Differences to {baseline.label}", description, figure)


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _draw_band(axes: Axes, seeds: Band, look: Look) -> None:
    axes.fill_between(seeds.epochs, seeds.low, seeds.high, color=look.colour, alpha=0.16, linewidth=0)
    axes.plot(
        seeds.epochs,
        seeds.mean,
        color=look.colour,
        linestyle=look.line,
        linewidth=1.5,
        marker=look.marker,
        markersize=4.5,
        markevery=max(1, len(seeds.epochs) // 6),
    )


def _legend_columns(names: Collection[str]) -> int:
    """Return how many columns of labels fit."""
    return max(1, min(4, len(names), 56 // (max(map(len, names)) + 7)))


def _legend(figure: Figure, names: Mapping[Row, str], style: Mapping[Row, Look], columns: int) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    handles = [
        Line2D(
            [], [], color=style[row].colour, marker=style[row].marker, linestyle=style[row].line, linewidth=1.5,
            markersize=4.5,
        )
        for row in names
    ]  # fmt: skip
    figure.legend(handles, list(names.values()), loc="outside lower center", ncols=columns, handlelength=2.6)


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
