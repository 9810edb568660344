"""Format accuracies and differences as entries of tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from kdbench.analysis.comparison import MEASURES, Reported
from kdbench.analysis.stats.paired import Interval, t_interval
from kdbench.analysis.tables.table import MISSING, Entry

LEVEL = 95
"""Confidence level of all intervals, in percent."""
BEST_ON_TEST = "† the best epoch was selected on the test set: these accuracies are biased upwards"


def fixed(value: float, digits: int = 2, *, sign: bool = False) -> str:
    """Format a number with fixed digits: empty for nan, and without a minus before zero."""
    if math.isnan(value):
        return ""
    text = format(value, f"{'+' if sign else ''}.{digits}f")
    return text.replace("-", "+" if sign else "") if float(text) == 0 else text


def accuracy(values: Mapping[int, float], reported: Reported = "last") -> Entry:
    """Make an entry of the mean and the standard deviation (ddof 1) over seeds."""
    if not values:
        return Entry(MISSING)
    interval = t_interval(list(values.values()))
    head = f"{MEASURES[reported]} %"
    numbers = {head: fixed(interval.mean), "sd": fixed(interval.sd), "n": str(interval.n)}
    mark = "†" if reported == "best" else ""
    text = f"{numbers[head]}{mark}" + (f" ± {numbers['sd']}" if numbers["sd"] else "")
    return Entry(text, {name: text for name, text in numbers.items() if text})


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """Compute paired differences, first minus second, by seed."""
    return {seed: value - second[seed] for seed, value in first.items() if seed in second}


def with_difference(entry: Entry, mean: float) -> Entry:
    """Append to an accuracy its difference to a baseline in percentage points, with an arrow up or down."""
    signed = fixed(mean, sign=True)
    arrow = "" if float(signed) == 0 else "↑" if mean > 0 else "↓"
    return replace(
        entry, text=f"{entry.text} {arrow}{signed[1:]}", numbers=dict(entry.numbers) | {"difference": signed}
    )


def gain(differences: Mapping[int, float]) -> Entry:
    """Make an entry of a mean paired difference in percentage points, with its t interval."""
    return interval_entry(t_interval(list(differences.values()), LEVEL / 100)) if differences else Entry(MISSING)


def interval_entry(interval: Interval) -> Entry:
    """Make an entry of a difference in percentage points with its interval, if the interval has a width."""
    mean, low, high = (fixed(value, sign=True) for value in (interval.mean, interval.low, interval.high))
    if not interval.high > interval.low:
        return Entry(mean, {"mean": mean, "n": str(interval.n)})
    return Entry(f"{mean} [{low}, {high}]", {"mean": mean, "low": low, "high": high, "n": str(interval.n)})
