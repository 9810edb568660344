"""Split a table of papers by its pairs, so that each part is readable in a column of text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from kdbench.analysis.tables.table import Table

_T = TypeVar("_T")
_BELOW = "notes: below the last of these tables"


def split_pairs(table: Table, most: int | None) -> list[Table]:
    """Split a table in the layout of papers into as few as have at most so many pairs, of nearly equal sizes.

    Labels stand in each of them, and the notes below the last one. None for no limit.
    """
    first, num_pairs = table.num_labels, len(table.heads[0]) - table.num_labels
    number = math.ceil(num_pairs / most) if most else 1
    if number <= 1:
        return [table]
    size, larger = divmod(num_pairs, number)
    ends = itertools.accumulate([size + 1] * larger + [size] * (number - larger), initial=first)

    def columns(line: Sequence[_T], start: int, stop: int) -> tuple[_T, ...]:
        return (*line[:first], *line[start:stop])

    return [
        replace(
            table,
            title=f"{table.title} ({place} of {number})",
            heads=tuple(columns(line, start, stop) for line in table.heads),
            rows=tuple(columns(row, start, stop) for row in table.rows),
            notes=table.notes if place == number else (_BELOW,),
        )
        for place, (start, stop) in enumerate(itertools.pairwise(ends), 1)
    ]
