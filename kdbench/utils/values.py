"""Take numbers out of values of unknown kind: of files, of command lines, of Python code that calls kdbench."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Iterator, Sequence

from kdbench.errors import UserError

LARGEST = 2**63 - 1
"""The largest whole number that is taken where nothing else bounds it."""


def whole_number(value: object, low: int = -LARGEST, high: int = LARGEST) -> int:
    """Return a whole number of Python's or NumPy's kind as ``int``.

    Raises
    ------
    ValueError
        It is not one, or not in ``[low, high]``; the message, such as ``must be at least 1, not 0``, is for behind a
        name.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"must be a whole number, not {shown(value)}")
    converted = int(value)
    if not low <= converted <= high:
        raise ValueError(f"must be {_range(low, high)}, not {shown(value)}")
    return converted


def number(value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a number of Python's or NumPy's kind as ``float``.

    Raises
    ------
    ValueError
        It is not one, not finite, or not in ``[low, high]``; the message is for behind a name.
    """
    if type(value) is float and low <= value <= high and math.isfinite(value):
        return value  # the usual case, fast
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"must be a number, not {shown(value)}")
    try:
        converted = float(value)
    except OverflowError:
        raise ValueError(f"must be a finite number, not {shown(value)}") from None
    if not math.isfinite(converted):
        raise ValueError(f"must be a finite number, not {converted}")
    if not low <= converted <= high:
        raise ValueError(f"must be {_range(low, high)}, not {shown(value)}")
    return converted


def text(value: object) -> str:
    """Return a text that is not empty, or raise ValueError with a message for behind a name."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"must be a text, not {shown(value)}")
    return value


def choice(value: object, choices: Sequence[str]) -> str:
    """Return one of some words, or raise ValueError with a message for behind a name."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"must be {' or '.join(choices)}, not {shown(value)}")
    return value


def flag(value: object) -> bool:
    """Return True or False, or raise ValueError with a message for behind a name."""
    if not isinstance(value, bool):
        raise ValueError(f"must be True or False, not {shown(value)}")
    return value


@contextlib.contextmanager
def argument(name: str) -> Iterator[None]:
    """Turn a ValueError about an argument of a user into a UserError that begins with its name."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{name} {error}") from None


def shown(value: object) -> str:
    """Return a value of unknown kind and size as a short text for messages."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python does not print whole numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _range(low: float, high: float) -> str:
    if high in (math.inf, LARGEST) and low not in (-math.inf, -LARGEST):
        return f"at least {low}"
    return f"between {low} and {high}"
