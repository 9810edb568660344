"""Plot the standings of methods over pairs: accuracy against cost, ranks, and differences to the baseline."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from kdbench.analysis.comparison import FAMILIES, Comparison, Row, position
from kdbench.analysis.plots.drawing import COLOURS, INK, Look, Plot, label, look_of, looks
from kdbench.analysis.plots.figures import figure_of, legend_below, logarithmic
from kdbench.analysis.plots.names import name_points
from kdbench.analysis.tables.differences import Versus, pooled_entry
from kdbench.analysis.tables.entries import LEVEL, fixed
from kdbench.analysis.tables.leaderboard import Leaderboard, Standing
from kdbench.analysis.tables.notes import measure_note
from kdbench.analysis.tables.parts import with_minus_signs

_FAMILY_NAMES = {"none": "student only", "": "no family"}
_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
"""Seconds of each unit of cost, and its name."""


def cost_plot(board: Leaderboard, name: str) -> Plot | None:
    """Plot accuracy against GPU-hours, or views if times are not comparable; None with fewer than two methods."""
    ranked = [standing for standing in board.standings if not math.isnan(standing.rank)]
    if len(ranked) < 2:
        return None
    costs, unit = _costs(board.comparison, ranked)
    families = sorted({standing.row.family for standing in ranked}, key=lambda name: position(name, FAMILIES))
    style = {family: _family_look(family, families) for family in families}
    figure, axes = figure_of(3.9)
    for standing, cost in zip(ranked, costs, strict=True):
        look = style[standing.row.family]
        size = 90 if look.marker == "*" else 42
        axes.scatter([cost], [standing.mean], s=size, marker=look.marker, color=look.colour, zorder=3)
    if min(costs) > 0 and max(costs) > 4 * min(costs):
        logarithmic(axes, "x")
    axes.set_xlabel("views of each image per step" if unit == "views" else f"training of a run, {unit}")
    axes.set_ylabel("top-1, mean over pairs, %")
    axes.margins(0.14, 0.12)
    legend_below(figure, {label(_FAMILY_NAMES.get(family, family)): look for family, look in style.items()})
    points = [(cost, standing.mean, label(standing.row.label)) for standing, cost in zip(ranked, costs, strict=True)]
    name_points(figure, axes, points)
    entries = ", ".join(
        f"{standing.row.label} {fixed(standing.mean)} % (n = {standing.num_runs}) at {cost:.3g} {unit}"
        for standing, cost in zip(ranked, costs, strict=True)
    )
    description = (
        f"{measure_note(board.comparison, board.reported)}, mean over pairs and n runs, against the training of a run, "
        f"mean over pairs and seeds, coloured by family: {entries}."
    )
    return Plot(name, "Accuracy against cost", description, figure)


def _costs(comparison: Comparison, standings: Sequence[Standing]) -> tuple[list[float], str]:
    """Return the cost of a run of each method, mean over pairs, and its unit; views if devices differ."""
    frames = [[result.frame for result in comparison.results_of(standing.row)] for standing in standings]
    devices = {device for each in frames for frame in each for device in frame["device"]}
    if len(devices) != 1:
        return [float(standing.row.views) for standing in standings], "views"
    seconds = [
        sum(float((frame["train_seconds"] * frame["devices"]).mean()) for frame in each) / len(each) for each in frames
    ]
    processor = "GPU" if all(frame["on_gpu"].all() for each in frames for frame in each) else "CPU"
    length, unit = next(((length, unit) for length, unit in _UNITS if max(seconds) >= length), _UNITS[-1])
    return [each / length for each in seconds], f"{processor}-{unit}"


def _family_look(family: str, families: Sequence[str]) -> Look:
    """Choose the colour and marker of a family; those that kdbench names are the same in all plots."""
    if family == "none":
        return Look(INK, "*", "")
    number = position(family, FAMILIES) - 1
    if family not in FAMILIES:
        number += [each for each in families if each not in FAMILIES].index(family)
    return look_of(number)


def ranks_plot(board: Leaderboard, name: str) -> Plot | None:
    """Plot the critical-difference diagram (Demsar 2006); bars join methods that do not differ significantly."""
    ranking = board.ranking
    if ranking is None:
        return None
    order = sorted(range(len(board.ranked)), key=lambda index: ranking.average_ranks[index])
    ranks = [float(ranking.average_ranks[index]) for index in order]
    names = [_wrapped(board.ranked[index].label) for index in order]
    step = 1.2 if any("\n" in name for name in names) else 0.6
    num, critical = len(order), ranking.critical_difference
    half = math.ceil(num / 2)
    first = 0.5 + 0.28 * len(ranking.cliques)
    depth = first + step * (half - 1)
    figure, axes = figure_of(0.75 + 0.38 * (depth + 1.3))
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
        height = -first - step * (place if left else num - 1 - place)
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


def _wrapped(text: str) -> str:
    """Make a label of several lines of a long text, as of tuned rows, which would leave no room for the plot."""
    text = label(text)
    return textwrap.fill(text, 20, break_on_hyphens=False) if len(text) > 22 else text


def differences_plot(comparison: Comparison, baseline: Row, results: Sequence[Versus], name: str) -> Plot | None:
    """Plot pooled differences to a baseline with their intervals (forest plot), and the mean of each pair as a dot."""
    if not results:
        return None
    style = looks(comparison)
    order = sorted(results, key=lambda versus: versus.mean)
    same_n = len({versus.num_seeds for versus in results}) == 1
    names = [_wrapped(versus.row.label) for versus in order]
    figure, axes = figure_of(0.95 + (0.5 if any("\n" in name for name in names) else 0.33) * len(order))
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
        text = with_minus_signs(pooled_entry(versus).text) + ("" if same_n else f" (n = {versus.num_seeds})")
        axes.annotate(
            text, (1, height), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
            fontsize=10,
        )  # fmt: skip
    axes.set_yticks(range(len(order)), names)
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
