"""Comparisons: records that may stand in one table, as methods x pairs x seeds; :mod:`.splitting` makes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from kdbench.analysis.records import Begun
from kdbench.utils.names import find_name

Epoch = Literal["last", "best"]
COLUMN: dict[Epoch, str] = {"last": "top1", "best": "best_top1"}
"""The accuracy after the last epoch, and the best one on the test set, which is never the headline."""
FAMILIES = ("none", "logits", "features", "relations", "contrast")
"""Of methods, in the order of tables."""


@dataclass(frozen=True, slots=True, order=True)
class ComparedPair:
    """A teacher with its student; the teacher's fields are empty for students that have none."""

    teacher: str
    student: str
    teacher_id: str = ""
    teacher_weights: str = ""
    teacher_accuracy: float = field(default=math.nan, compare=False)
    name: str = field(default="", compare=False)
    """``TEACHER > STUDENT``, with the teacher's hash where several of one network are compared."""

    @property
    def short(self) -> str:
        """The part of the teacher's identity that names it."""
        return self.teacher_id.partition(":")[2][:8]


@dataclass(frozen=True, slots=True)
class Row:
    """A method as it was run: one row of a table."""

    method: str
    version: int
    settings: str
    """What distinguishes it from the method's published settings, as JSON."""
    views: int
    """Of each image in a step."""
    family: str = field(compare=False)
    label: str = field(default="", compare=False)

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings that were chosen."""
        values: dict[str, Any] = json.loads(self.settings)
        return values


@dataclass(frozen=True, slots=True)
class Result:
    """What there is of one row and one pair."""

    frame: pd.DataFrame
    """Its records, by seed."""
    begun: tuple[Begun, ...] = ()
    """Its cells without a record."""

    def values(self, epoch: Epoch = "last") -> dict[int, float]:
        """Top-1 accuracies in percent, by seed."""
        return dict(zip(self.frame.index.tolist(), self.frame[COLUMN[epoch]].tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Records that may be compared."""

    title: str
    rules: Mapping[str, Any]
    """What decides results for all of them: the protocol's values, ``data`` (a fingerprint) and ``epoch_rule``."""
    overrides: Mapping[str, Any]
    """Where the rules differ from those of the named protocol."""
    pairs: tuple[ComparedPair, ...]
    rows: tuple[Row, ...]
    """In the order of families and names."""
    results: Mapping[tuple[Row, ComparedPair], Result]
    alone: Row | None
    """The row of students without a teacher."""
    frame: pd.DataFrame
    """All its records, those of teachers left out."""

    def result(self, row: Row, pair: ComparedPair) -> Result | None:
        """What there is of a row and a pair; students without a teacher stand in all their pairs."""
        return self.results.get((row, pair))

    def results_of(self, row: Row) -> list[Result]:
        """What there is of a row, in all its pairs."""
        return [result for (own, _), result in self.results.items() if own == row]

    def seeds(self, pair: ComparedPair) -> set[int]:
        """All seeds that were begun for a pair with a teacher, by any method; a student alone has as many for all."""
        found: set[int] = set()
        for row in self.rows:
            result = self.result(row, pair)
            if result and row != self.alone:
                found |= set(result.frame.index) | {begun.config["seed"] for begun in result.begun}
        return found

    def complete(self, row: Row) -> bool:
        """Whether a row has a record for each seed of each pair."""
        results = [(pair, self.result(row, pair)) for pair in self.pairs]
        return all(result and self.seeds(pair) <= set(result.frame.index) for pair, result in results)

    def find(self, name: str) -> Row:
        """The row of a method, by its label or by its name alone.

        Raises
        ------
        UserError
            There is none, or there are several of the method.
        """
        labels = {row.label: row for row in self.rows}
        plain = [row for row in self.rows if row.method == name]
        if len(plain) == 1:
            return plain[0]
        return labels[find_name("row", name, labels, f"there are {', '.join(labels)}")]


def select(comparison: Comparison, methods: Sequence[str] = (), pairs: Sequence[str] = ()) -> Comparison:
    """Narrow a comparison to some methods, as :meth:`Comparison.find` knows them, and pairs; students alone stay.

    Raises
    ------
    UserError
        There is no such method or pair.
    """
    rows, kept = comparison.rows, comparison.pairs
    if methods:
        found = {comparison.find(name) for name in methods}
        rows = tuple(row for row in rows if row in found or row == comparison.alone)
    if pairs:
        names = {pair.name: pair for pair in kept}
        chosen = {find_name("pair", pair, names, f"there are {', '.join(names)}") for pair in pairs}
        kept = tuple(pair for pair in kept if pair.name in chosen)
    results = {key: result for key, result in comparison.results.items() if key[0] in rows and key[1] in kept}
    return replace(comparison, rows=rows, pairs=kept, results=results)


def settings_text(values: Mapping[str, Any]) -> str:
    """Settings, or overrides of a protocol, as ``name=value`` words."""
    return " ".join(f"{key}={json.dumps(v) if isinstance(v, list | dict) else v}" for key, v in values.items())


def place(name: str, ordered: Sequence[str]) -> int:
    """The position of a name, behind all where it has none."""
    return ordered.index(name) if name in ordered else len(ordered)
