"""Take numbers out of values of unknown kind: of files, of command lines, of Python code that calls kdbench."""

from __future__ import annotations

import math
import numbers

from kdbench.errors import UserError

LARGEST = 2**63 - 1
"""The largest whole number that is taken where nothing else bounds it."""


def whole_number(value: object, low: int = -LARGEST, high: int = LARGEST) -> int:
    """Return a whole number of Python's or NumPy's kind as ``int``.

    Raises
    ------
    ValueError
        It is not one, or not in ``[low, high]``; the message holds the value and what it must be.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{shown(value)} is not a whole number")
    converted = int(value)
    if not low <= converted <= high:
        raise ValueError(f"{shown(value)} is not {_range(low, high)}")
    return converted


def number(value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a number of Python's or NumPy's kind as ``float``.

    Raises
    ------
    ValueError
        It is not one, not finite, or not in ``[low, high]``; the message holds the value and what it must be.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{shown(value)} is not a number")
    try:
        converted = float(value)
    except OverflowError:
        raise ValueError(f"{shown(value)} is too large") from None
    if not math.isfinite(converted):
        raise ValueError(f"{converted} is not a finite number")
    if not low <= converted <= high:
        raise ValueError(f"{shown(value)} is not {_range(low, high)}")
    return converted


def save_seconds(value: object) -> float:
    """Return how many seconds lie between two saves of a state.

    Raises
    ------
    UserError
        It is no finite number, or below 0.
    """
    try:
        return number(value, 0)
    except ValueError as error:
        raise UserError(f"--save-every: {error}") from None


def shown(value: object) -> str:
    """Return a value of unknown kind and size as a short text for messages."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python does not print whole numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _range(low: float, high: float) -> str:
    if high in (math.inf, LARGEST):
        return f"at least {low}"
    return f"at most {high}" if low in (-math.inf, -LARGEST) else f"between {low} and {high}"
