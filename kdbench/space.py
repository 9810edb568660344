"""Which values of a setting a search tries: a range on a logarithmic or linear scale, or a few values.

A trial is a point of the unit cube, one coordinate a setting; here is what a coordinate means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, final

DIGITS = 3
"""Significant digits of a value that is tried: it can be read, typed and printed."""


@final
@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``, equally likely on the scale.

    Parameters
    ----------
    low, high
        The ends, which belong to it.
    scale
        ``log`` or ``linear``.
    """

    low: float
    high: float
    scale: Literal["log", "linear"]

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.scale == "log" and self.low <= 0):
            raise ValueError(f"a {self.scale} range goes from a smaller to a larger number, not {self}")

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        """The range in words: ``0.1 to 30, log``."""
        return f"{self.low:g} to {self.high:g}, {self.scale}"

    def value(self, place: float) -> float:
        """Return the number at a place in [0, 1), rounded to three significant digits and within the range."""
        if self.scale == "log":
            value = math.exp(math.log(self.low) + place * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + place * (self.high - self.low)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@final
@dataclass(frozen=True, slots=True)
class Among:
    """A few values, equally likely.

    Parameters
    ----------
    values
        Two or more, all of them different.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(set(self.values)) < 2 or len(set(self.values)) < len(self.values):
            raise ValueError(f"a search is among two different values or more, not {self}")

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        """The values in words: ``0, 0.1 or 1``."""
        *first, last = (str(value).lower() if isinstance(value, bool) else f"{value}" for value in self.values)
        return f"{', '.join(first)} or {last}"

    def value(self, place: float) -> Any:
        """Return the value at a place in [0, 1)."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]


Searched = Range | Among
"""What a search tries of a setting."""


def log(low: float, high: float) -> Range:
    """Return a range whose logarithm is searched evenly: for weights and temperatures."""
    return Range(low, high, "log")


def linear(low: float, high: float) -> Range:
    """Return a range that is searched evenly."""
    return Range(low, high, "linear")


def among(*values: Any) -> Among:
    """Return a few values of which each is tried as often."""
    return Among(values)
