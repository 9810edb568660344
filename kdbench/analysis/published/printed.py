"""A source's table as it was printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from kdbench.analysis.published.files import PublishedEpoch
from kdbench.analysis.published.tables import NETWORKS, NOT_OURS, heads, number_entry
from kdbench.analysis.published.values import Published
from kdbench.analysis.tables.entries import with_difference
from kdbench.analysis.tables.layouts import Marks
from kdbench.analysis.tables.table import Entry, Mark, Table, words
from kdbench.errors import UserError

_REPORTED: dict[PublishedEpoch, str] = {
    "last": "after the last epoch",
    "best": "in the best epoch on the test set",
    "unknown": "epoch not stated",
}


def printed_table(published: Published, source: str, baseline: str | None = None, marks: Marks = "all") -> Table:
    """Make a source's table as it was printed, with differences to one of its rows; NA for a missing value.

    Raises
    ------
    UserError
        The source is not one printed table, or the baseline is not one of its rows.
    """
    frame = published.printed(source)
    description = published.sources[source]
    assert description.table is not None
    base = _row(frame, baseline or description.table.baseline)
    contested = _contested(published, source, description.table.names)
    columns = []
    for pair in frame:
        values = {str(row): float(value) for row, value in frame[pair].items()}
        row_marks = _row_marks({row: value for row, value in values.items() if row not in NETWORKS}, marks)
        columns.append([_entry(values, row, base, row_marks, contested.get((row, str(pair)), "")) for row in values])
    rows = [(*words(str(row)), *(column[number] for column in columns)) for number, row in enumerate(frame.index)]
    return Table(
        description.title,
        heads([str(pair) for pair in frame]),
        tuple(rows),
        (
            f"top-1 on the test set of {published.dataset} in %, as printed ({_REPORTED[description.epoch]}); "
            "NA: not printed",
            f"↑ ↓: difference to {base} in percentage points",
            *(f"the differences of {pair} are to a contested value" for row, pair in contested if row == base),
            *(["bold: best printed value; underlined: second best; no significance test"] if marks != "none" else []),
            NOT_OURS,
        ),
    )


def _row(frame: pd.DataFrame, name: str) -> str:
    spelled = {str(row).lower(): str(row) for row in frame.index}
    if name.lower() not in spelled:
        raise UserError(f"the printed table has no row {name!r}: its rows are {', '.join(map(str, frame.index))}")
    return spelled[name.lower()]


def _contested(published: Published, source: str, names: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Return why values are contested, by label and pair."""
    labels = {name: label for label, name in names.items()}
    rows = published.select(sources=[source]).frame.to_dict("records")
    return {
        (labels.get(row["method"], row["method"]), row["pair"]): row["contested"] for row in rows if row["contested"]
    }


def _entry(values: Mapping[str, float], row: str, base: str, marks: Mapping[str, Mark], note: str) -> Entry:
    value = values[row]
    if math.isnan(value):
        return Entry("NA", {"top-1 %": ""})
    entry = replace(number_entry(value, None, note), mark=marks.get(row, ""))
    has_difference = row not in {base, *NETWORKS} and not math.isnan(values[base])
    return with_difference(entry, value - values[base]) if has_difference else entry


def _row_marks(values: Mapping[str, float], marks: Marks) -> dict[str, Mark]:
    """Mark the best and second best of printed values; equal values share a mark."""
    if marks == "none":
        return {}
    order = sorted({value for value in values.values() if not math.isnan(value)}, reverse=True)
    names: tuple[Mark, ...] = ("best", "second")
    return {
        row: mark for mark, best in zip(names, order, strict=False) for row, value in values.items() if value == best
    }
