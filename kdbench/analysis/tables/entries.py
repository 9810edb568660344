"""Numbers as they are printed: the places of tables that accuracies and differences become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from kdbench.analysis.comparison import Epoch
from kdbench.analysis.stats.paired import Interval, t_interval
from kdbench.analysis.tables.table import MISSING, Entry

LEVEL = 95
"""Percent of the intervals."""
BEST_ON_TEST = "† the best epoch was selected on the test set: such numbers are too high and no fair comparison"


def fixed(value: float, digits: int = 2, *, sign: bool = False) -> str:
    """A number as it is printed; nothing for a NaN, and no minus before a zero."""
    if math.isnan(value):
        return ""
    text = format(value, f"{'+' if sign else ''}.{digits}f")
    return text.replace("-", "+" if sign else "") if float(text) == 0 else text


def accuracy(values: Mapping[int, float], epoch: Epoch = "last") -> Entry:
    """Mean and standard deviation (ddof 1) over seeds."""
    if not values:
        return Entry(MISSING)
    found = t_interval(list(values.values()))
    numbers = {"top-1 %": fixed(found.mean), "sd": fixed(found.sd), "n": str(found.n)}
    mark = "†" if epoch == "best" else ""
    text = f"{numbers['top-1 %']}{mark}" + (f" ± {numbers['sd']}" if numbers["sd"] else "")
    return Entry(text, {name: text for name, text in numbers.items() if text})


def difference(own: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    """Paired differences by seed."""
    return {seed: value - other[seed] for seed, value in own.items() if seed in other}


def with_difference(entry: Entry, mean: float) -> Entry:
    """An accuracy followed by its difference to a baseline in percentage points, behind an arrow up or down."""
    signed = fixed(mean, sign=True)
    arrow = "" if float(signed) == 0 else "↑" if mean > 0 else "↓"
    return replace(
        entry, text=f"{entry.text} {arrow}{signed[1:]}", numbers=dict(entry.numbers) | {"difference": signed}
    )


def gain(differences: Mapping[int, float]) -> Entry:
    """A mean paired difference in percentage points, with its t interval."""
    return interval_entry(t_interval(list(differences.values()), LEVEL / 100)) if differences else Entry(MISSING)


def interval_entry(found: Interval) -> Entry:
    """A difference in percentage points with its interval; none where all differences are equal, as of few seeds."""
    mean, low, high = (fixed(value, sign=True) for value in (found.mean, found.low, found.high))
    if not found.high > found.low:
        return Entry(mean, {"mean": mean, "n": str(found.n)})
    return Entry(f"{mean} [{low}, {high}]", {"mean": mean, "low": low, "high": high, "n": str(found.n)})
