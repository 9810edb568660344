"""Take the texts of entries apart, so that numbers can stand below each other: ``75.64 ± 0.28 ↑1.66 [75.48]``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdbench.analysis.tables.table import Table

KINDS = ("first", "spread", "difference", "bracket")
"""What an entry may consist of: an accuracy or another text, its standard deviation, a difference, and what stands in
brackets."""
_PARTS = re.compile(r"(\S*)(?: (± \S+))?(?: ([↑↓]\S+|0\.00))?(?: (\[.*\]))?")
"""A difference of zero has no arrow."""
_SIGN = re.compile(r"(?<![A-Za-z0-9.)\]_-])-(?=[0-9.])")
"""A hyphen that is the sign of a number."""
_INTEGER = re.compile(r"[0-9]+(?=\.)")


def parts(text: str) -> tuple[str, str, str, str]:
    """Take a text apart into the kinds of parts; a missing one is empty, and another text than these is the first."""
    match = _PARTS.fullmatch(text)
    if match is None:
        return text, "", "", ""
    first, spread, difference, bracket = (part or "" for part in match.groups())
    return first, spread, difference, bracket


def with_minus_signs(text: str) -> str:
    """Return a text for print, in which signs of negative numbers are no hyphens."""
    return _SIGN.sub("\N{MINUS SIGN}", text)


def num_spreads(table: Table) -> int:
    """Return how many columns hold accuracies with their standard deviations."""
    columns = zip(*(row[table.num_labels :] for row in table.rows), strict=True)
    return sum(any(parts(entry.text)[1] for entry in column) for column in columns)


def missing_digits(texts: Sequence[str]) -> list[int]:
    """Return how many digits each text has less before its decimal point than the longest one; 0 where it has none."""
    sizes = [len(match[0]) if (match := _INTEGER.search(text)) else 0 for text in texts]
    return [max(sizes) - size if size else 0 for size in sizes]
