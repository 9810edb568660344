"""Place names next to the points of a plot with little overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from kdbench.analysis.plots.drawing import RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox, BboxBase

_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7))


def name_points(figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write a name next to each point, where it overlaps least with points and with earlier names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.transforms import Bbox  # noqa: PLC0415

    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()
    positions = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in positions]
    frame = figure.bbox
    for (x, y, text), position in zip(points, positions, strict=True):
        size = axes.text(x, y, text, fontsize=10).get_window_extent(renderer)
        axes.texts[-1].remove()
        best: tuple[float, float, float, Bbox] | None = None
        for distance, (right, up) in product((8, 16, 26), _SIDES):
            left = position[0] + right * distance - (size.width if right < 0 else size.width / 2 if right == 0 else 0)
            low = position[1] + up * distance - (size.height if up < 0 else size.height / 2 if up == 0 else 0)
            box = Bbox.from_bounds(left, low, size.width, size.height)
            overlap = sum(_overlap(box, other) for other in taken) + _outside(box, frame) + distance / 100
            if best is None or overlap < best[0]:
                best = (overlap, left, low, box)
        assert best
        taken.append(best[3])
        offset = ((best[1] - position[0]) * 72 / figure.dpi, (best[2] - position[1]) * 72 / figure.dpi)
        length = math.hypot(best[1] + size.width / 2 - position[0], best[2] + size.height / 2 - position[1])
        arrow = {"arrowstyle": "-", "color": RULE} if length > size.width / 2 + 24 else None
        axes.annotate(text, (x, y), offset, textcoords="offset points", fontsize=10, va="bottom", arrowprops=arrow)


def _overlap(box: BboxBase, other: BboxBase) -> float:
    """Return the common area of two boxes."""
    width = min(box.x1, other.x1) - max(box.x0, other.x0)
    height = min(box.y1, other.y1) - max(box.y0, other.y0)
    return float(max(width, 0.0) * max(height, 0.0))


def _outside(box: BboxBase, frame: BboxBase) -> float:
    """Return the area of a box that lies outside a frame."""
    return float(box.width * box.height) - _overlap(box, frame)
