"""Take the texts of entries apart, so that numbers can stand below each other: ``75.64 ± 0.28 ↑1.66 [75.48]``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdbench.analysis.tables.table import Table

KINDS = ("first", "spread", "difference", "bracket")
"""What an entry may consist of: an accuracy or another text, its standard deviation, a difference, and what stands in
brackets."""
_STARTS = re.compile(r" (?=[±↑↓\[]|0\.00$)")
"""Before a part; a difference of zero has no arrow."""
_INTEGER = re.compile(r"[0-9]+(?=\.)")


def parts(text: str) -> tuple[str, str, str, str]:
    """Take a text apart into the kinds of parts; a missing one is empty."""
    first, *others = _STARTS.split(text)
    starts = {"±": "spread", "[": "bracket"}
    by_kind = {"first": first} | {starts.get(part[0], "difference"): part for part in others}
    first, spread, difference, bracket = (by_kind.get(kind, "") for kind in KINDS)
    return first, spread, difference, bracket


def num_spreads(table: Table) -> int:
    """Return how many columns hold accuracies with their standard deviations."""
    columns = zip(*(row[table.num_labels :] for row in table.rows), strict=True)
    return sum(any(parts(entry.text)[1] for entry in column) for column in columns)


def missing_digits(texts: Sequence[str]) -> list[int]:
    """Return how many digits each text has less before its decimal point than the longest one; 0 where it has none."""
    sizes = [len(match[0]) if (match := _INTEGER.search(text)) else 0 for text in texts]
    return [max(sizes) - size if size else 0 for size in sizes]
