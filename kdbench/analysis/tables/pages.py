"""Split tables for print: by pairs, so that each fits a column of text, and by rows, so that each fits a page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from kdbench.analysis.tables.table import Table

_T = TypeVar("_T")
_PAGE, _LINE = 44, 90
"""Lines of a table that a page has place for, and characters of a line of notes."""
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


def split_rows(table: Table, lines_per_row: int) -> list[Table]:
    """Split a table that is longer than a page between groups of rows, or rows where one group alone is too long.

    The first part has the label, the last one the notes.
    """
    most = _PAGE // lines_per_row
    starts = [number for number in range(len(table.rows)) if number == 0 or table.starts_group(number)]
    if not table.grouped:
        starts = list(range(len(table.rows)))
    groups = [
        (begin, min(begin + most, end))
        for start, end in itertools.pairwise([*starts, len(table.rows)])
        for begin in range(start, end, most)
    ]
    parts: list[tuple[int, int]] = []
    for begin, end in groups:
        if parts and end - parts[-1][0] <= most:
            parts[-1] = parts[-1][0], end
        else:
            parts.append((begin, end))
    begin, end = parts[-1] if parts else (0, 0)
    num_notes = sum(len(note) for note in (*table.footnotes, *table.notes)) // _LINE
    last = groups[-1][0] if groups else 0
    if (end - begin) * lines_per_row + num_notes > _PAGE and last > begin:
        parts[-1:] = [(begin, last), (last, end)]
    if len(parts) < 2:
        return [table]
    return [_part(table, begin, end) for begin, end in parts]


def _part(table: Table, begin: int, end: int) -> Table:
    """Return some rows of a table; the name of a group that begins before them is repeated."""
    rows = table.rows[begin:end]
    if table.grouped and not rows[0][0].text:
        name = next((row[0] for row in reversed(table.rows[:begin]) if row[0].text), rows[0][0])
        rows = ((name, *rows[0][1:]), *rows[1:])
    return replace(
        table,
        title=table.title if begin == 0 else f"{table.title} (continued)",
        rows=rows,
        notes=table.notes if end == len(table.rows) else (_BELOW,),
        label=table.label if begin == 0 else "",
    )
