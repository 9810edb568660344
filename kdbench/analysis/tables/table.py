"""The object behind every table: rows of entries, with the notes that a reader needs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Mark = Literal["", "best", "second"]
MISSING = "--"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a table."""

    text: str
    numbers: Mapping[str, str] = field(default_factory=dict)
    """Numbers in the text by name, with the digits that are printed."""
    mark: Mark = ""
    notes: tuple[str, ...] = ()
    """Footnotes of the entry."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of entries under a head, with notes."""

    title: str
    heads: tuple[tuple[str, ...], ...]
    """Lines of the head, each with one text per column."""
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()
    num_labels: int = 1
    """Number of columns at the left that label the rows; a blank label repeats the one above it."""
    grouped: bool = False
    """Whether the first column names groups of rows, on the first row of each."""
    keys: tuple[Any, ...] = ()
    """What each row is about, for code that adds to the table; empty if no code does."""
    label: str = ""
    """Label by which a paper in LaTeX refers to it; empty for none."""

    @property
    def footnotes(self) -> dict[str, str]:
        """Footnotes of all entries with their letters, in the order of the rows."""
        texts = dict.fromkeys(text for row in self.rows for entry in row for text in entry.notes)
        return dict(zip(texts, _letters(), strict=False))

    @property
    def columns(self) -> list[str]:
        """One name for each column: the lines of its head, joined."""
        return [" > ".join(filter(None, column)) for column in zip(*self.heads, strict=True)]

    def starts_group(self, number: int) -> bool:
        """Return whether a rule is drawn above a row: it is the first of a group, and not the first of the table."""
        return self.grouped and number > 0 and bool(self.rows[number][0].text)


def words(*texts: str) -> tuple[Entry, ...]:
    """Make entries of plain text."""
    return tuple(Entry(text) for text in texts)


def _letters() -> itertools.chain[str]:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    return itertools.chain(alphabet, ("".join(two) for two in itertools.product(alphabet, repeat=2)))
