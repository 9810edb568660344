"""The one object that every table is: rows of entries, with what a reader must know to trust them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Mark = Literal["", "best", "second"]
MISSING = "--"


@dataclass(frozen=True, slots=True)
class Entry:
    """One place of a table."""

    text: str
    numbers: Mapping[str, str] = field(default_factory=dict)
    """The numbers in the text by name, with the digits that are printed."""
    mark: Mark = ""
    notes: tuple[str, ...] = ()
    """What a reader must know about this place: footnotes."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one comparison with what a reader must know to trust them."""

    title: str
    heads: tuple[tuple[str, ...], ...]
    """Lines of the head, each as wide as the table."""
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()
    num_labels: int = 1
    """The first so many columns are words."""
    grouped: bool = False
    """Whether the first column names groups of rows, on the first row of each."""

    @property
    def footnotes(self) -> dict[str, str]:
        """The footnotes of all places and their letters, in the order of the rows."""
        texts = dict.fromkeys(text for row in self.rows for entry in row for text in entry.notes)
        return dict(zip(texts, _letters(), strict=False))

    @property
    def columns(self) -> list[str]:
        """One name for each column: the lines of its head in one."""
        return [" > ".join(filter(None, column)) for column in zip(*self.heads, strict=True)]

    def starts_group(self, number: int) -> bool:
        """Whether a rule is drawn above a row: it is the first of its group, and not of all."""
        return self.grouped and number > 0 and bool(self.rows[number][0].text)


def words(*texts: str) -> tuple[Entry, ...]:
    """Places that hold plain words."""
    return tuple(Entry(text) for text in texts)


def _letters() -> itertools.chain[str]:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    return itertools.chain(alphabet, ("".join(two) for two in itertools.product(alphabet, repeat=2)))
