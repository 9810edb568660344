"""Lay out figures for a text column: their size, panels, legends and logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from kdbench.analysis.plots.drawing import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.5
"""Width of every plot in inches: a text column of NeurIPS, ICML's and CVPR's two columns with a little room."""
SMALL = 9.0
"""Size of letters in panels, in points."""
_DECADES = 300.0
"""Ratio of the ends of a logarithmic axis above which only decades have numbers."""
_WIDE_RANGE = 8.0
"""Ratio of largest to smallest value above which an axis is logarithmic."""


def figure_of(height: float) -> tuple[Figure, Axes]:
    """Make a figure with one plot."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def panels(
    number: int, columns: int, height: float, *, extra: float = 0.0, square: bool = False, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels, row by row.

    Parameters
    ----------
    columns
        Largest number of panels side by side.
    height, extra
        Of each row of panels, and of what is around them, in inches.
    square
        Make the panels square, and a figure of a single one narrower.
    share
        Whether panels share their horizontal axis, and square ones both.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    columns = min(columns, number)
    rows = math.ceil(number / columns)
    width = 0.65 * WIDTH if square and columns == 1 else WIDTH
    if square:
        height = max(height, width / columns)
    figure = Figure(figsize=(width, rows * height + extra), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share and square)
    axes = list(grid.flat)
    for spare in axes[number:]:
        spare.remove()
    for place, panel in enumerate(axes[:number]):
        panel.tick_params(labelsize=SMALL, labelbottom=place + columns >= number)
        if square:
            panel.set_box_aspect(1)
    return figure, axes[:number]


def legend_columns(names: Collection[str], *, lines: bool) -> int:
    """Return how many columns of labels fit below a plot."""
    most, handle = (4, 7) if lines else (5, 4)
    return max(1, min(most, len(names), 56 // (max(map(len, names)) + handle)))


def legend_below(figure: Figure, names: Mapping[str, Look], *, lines: bool = False) -> None:
    """Write a legend of markers, with or without lines, below the plot."""
    from matplotlib.lines import Line2D  # noqa: PLC0415

    handles = [
        Line2D(
            [], [], color=look.colour, marker=look.marker, linestyle=look.line if lines else "", linewidth=1.5,
            markersize=4.5 if lines else 6.5,
        )
        for look in names.values()
    ]  # fmt: skip
    columns, length = legend_columns(names, lines=lines), 2.6 if lines else 1.2
    figure.legend(handles, list(names), loc="outside lower center", ncols=columns, handlelength=length)


def logarithmic(axes: Axes, which: str) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2 and 5 of each decade, or at 1 if there are many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    if which == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    lowest, highest = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if highest > _DECADES * lowest else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def is_wide(values: Sequence[float]) -> bool:
    """Return whether values are positive and so far apart that a logarithmic axis shows them better."""
    return min(values) > 0 and max(values) / min(values) > _WIDE_RANGE
