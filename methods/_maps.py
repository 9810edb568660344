"""Feature maps of two networks: which stages belong together, and the size at which they are compared."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from kdbench.method import Setup
from kdbench.net import Outputs


def num_matched(method: str, setup: Setup, least: int = 1) -> int:
    """Return how many stages of the two networks are matched, counted from the deepest.

    Raises
    ------
    ValueError
        A network has fewer than ``least`` stages.
    """
    num = min(len(setup.student.shapes), len(setup.teacher.shapes))
    if num < least:
        few = min(setup.student, setup.teacher, key=lambda net: len(net.shapes))
        raise ValueError(
            f"{method} needs networks of at least {least} stage{'s' if least > 1 else ''}, but {few.name} has "
            f"{len(few.shapes)}: choose another network, or a method that reads logits or penultimate features"
        )
    return num


def matched(student: Outputs, teacher: Outputs, num: int) -> list[tuple[Tensor, Tensor]]:
    """Return the deepest ``num`` stages of student and teacher in pairs, shallow to deep."""
    return list(zip(student.stages[-num:], teacher.stages[-num:], strict=True))


def to_smaller_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Maps ``(B, C, H, W)`` of two networks at one size: the larger ones are average-pooled to the smaller."""
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    return pooled_to(first, size), pooled_to(second, size)


def pooled_to(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps ``(B, C, H, W)`` average-pooled to a size, as they are if they have it."""
    height, width = size
    (rows, more_rows), (columns, more_columns) = divmod(maps.shape[2], height), divmod(maps.shape[3], width)
    if more_rows or more_columns:
        return functional.adaptive_avg_pool2d(maps, (height, width))
    # On CUDA its gradient, unlike that of the other, is the same each time.
    return maps if (rows, columns) == (1, 1) else functional.avg_pool2d(maps, (rows, columns))
