"""Comparisons: comparable records as methods x pairs x seeds; :mod:`.splitting` builds them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from kdbench.analysis.records import UnfinishedCell
from kdbench.analysis.searches import Search
from kdbench.utils.names import squeeze, unknown_name

Reported = Literal["last", "best", "validation", "balanced_accuracy", "macro_f1"]
"""What is reported: top-1 after the last epoch, in the best one on the test set or on held-out training images, or
another measure after the last."""
COLUMN: dict[Reported, str] = {
    "last": "top1",
    "best": "best_top1",
    "validation": "validation_top1",
    "balanced_accuracy": "balanced_accuracy",
    "macro_f1": "macro_f1",
}
"""The column of records with each."""
MEASURES: dict[Reported, str] = {
    "last": "top-1",
    "best": "top-1",
    "validation": "top-1",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
}
"""What tables call each."""
FAMILIES = ("none", "logits", "features", "relations", "contrast")
"""Families of methods, in the order of tables."""


@dataclass(frozen=True, slots=True, order=True)
class ComparedPair:
    """A teacher with its student; the teacher's fields are empty for a student without a teacher."""

    teacher: str
    student: str
    teacher_id: str = ""
    teacher_weights: str = ""
    teacher_accuracy: float = field(default=math.nan, compare=False)
    """Test top-1 in percent; if records of the teacher disagree, the value that most of them have."""
    other_accuracies: tuple[float, ...] = field(default=(), compare=False)
    """Accuracies of the teacher in records that disagree."""
    hashes: str = field(default="", compare=False)
    """First letters of the hash of the teacher's weights, and of its id if weights do not tell teachers apart."""
    teacher_label: str = field(default="", compare=False)
    """Network of the teacher, with its hashes if several teachers of this network are compared."""
    student_label: str = field(default="", compare=False)
    """Name of the student in tables."""

    @property
    def id_hash(self) -> str:
        """Hash in the teacher's id."""
        return self.teacher_id.partition(":")[2]

    @property
    def name(self) -> str:
        """``TEACHER > STUDENT``, by their labels."""
        return _arrow(self.teacher_label, self.student_label)

    @property
    def typed(self) -> str:
        """`name` with the names of networks that users type, whatever tables call them."""
        return _arrow(self.teacher + self.teacher_label.removeprefix(self.teacher_network), self.student)

    @property
    def teacher_network(self) -> str:
        """The label of the teacher without its hashes."""
        return self.teacher_label.removesuffix(f" ({self.hashes})")


def _arrow(teacher: str, student: str) -> str:
    return f"{teacher} > {student}" if teacher else f"{student}, student only"


@dataclass(frozen=True, slots=True)
class Row:
    """A method with its version, settings, views and code: one row of a table."""

    method: str
    version: int
    settings: str
    """Settings that differ from the method's published ones, as JSON."""
    views: int
    """Views of each image in a step; 0 if no cell is finished."""
    code: str
    """First letters of the hash of a user's method; empty for methods of kdbench, and for records without a hash."""
    family: str = field(compare=False)
    label: str = field(default="", compare=False)
    tuning: str = ""
    """Where its settings were chosen; empty where no search chose them."""
    epochs: int = 0
    """Of students that were trained for longer than the comparison's rules say, without a teacher; 0 for all others."""
    printed: str = field(default="", compare=False)
    """Name that papers print for the method; empty where tables have the typed one."""

    @property
    def name(self) -> str:
        """Name of the method in tables, with which the label begins."""
        return self.printed or self.method

    @property
    def typed(self) -> str:
        """The label that users type, whatever tables call the method."""
        return self.method + self.label.removeprefix(self.name)

    @property
    def changed(self) -> dict[str, Any]:
        """Settings that differ from the method's published ones."""
        values: dict[str, Any] = json.loads(self.settings)
        return values


@dataclass(frozen=True, slots=True)
class Result:
    """Records and unfinished cells of one row on one pair."""

    frame: pd.DataFrame
    """Records, indexed by seed."""
    unfinished: tuple[UnfinishedCell, ...] = ()

    def values(self, reported: Reported = "last") -> dict[int, float]:
        """Return what is reported in percent, by seed."""
        return dict(zip(self.frame.index.tolist(), self.frame[COLUMN[reported]].tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Records under the same rules, which may be compared."""

    title: str
    rules: Mapping[str, Any]
    """The rules of all records: the protocol's values, ``data`` (a fingerprint) and ``epoch_rule``."""
    dataset: str
    """Name of the data set; data of a user's own are named by their hash and, in brackets, as the user called them."""
    overrides: Mapping[str, Any]
    """Rules that differ from those of the named protocol; the data set as `dataset` has it."""
    pairs: tuple[ComparedPair, ...]
    rows: tuple[Row, ...]
    """Methods in the order of families and names."""
    results: Mapping[tuple[Row, ComparedPair], Result]
    student_only: Row | None
    """The student-only baseline: students trained without a teacher."""
    num_variants: Mapping[str, int]
    """Number of rows of each method, including those that are not selected."""
    teacher_runs: tuple[tuple[str, int], ...]
    """Network and seed of each teacher's own run that is left out, if its network is a student, too."""
    searches: tuple[Search, ...] = ()
    """The searches whose choices are run on these pairs."""

    def result(self, row: Row, pair: ComparedPair) -> Result | None:
        """Return the result of a row on a pair, or None; the student-only baseline has one on each of its pairs."""
        return self.results.get((row, pair))

    def results_of(self, row: Row) -> list[Result]:
        """Return the results of a row on all its pairs."""
        return [result for (other, _), result in self.results.items() if other == row]

    def seeds(self, pair: ComparedPair) -> set[int]:
        """Return all seeds that any method was started with on a pair, the student-only baseline left out."""
        seeds: set[int] = set()
        for row in self.rows:
            result = self.result(row, pair)
            if result and row != self.student_only:
                seeds |= set(result.frame.index) | {cell.config["seed"] for cell in result.unfinished}
        return seeds

    def complete(self, row: Row) -> bool:
        """Return whether a row has a record for each seed of each pair."""
        results = [(pair, self.result(row, pair)) for pair in self.pairs]
        return all(result and self.seeds(pair) <= set(result.frame.index) for pair, result in results)

    def matching(self, name: str) -> list[Row]:
        """Return the row of this label, printed or typed; without one, all rows of this method."""
        labels = [row for row in self.rows if _words(name) in (_words(row.label), _words(row.typed))]
        return labels or [row for row in self.rows if squeeze(row.method) == squeeze(name)]

    def find(self, name: str) -> Row:
        """Return a row by its label, or by its method's name if that has one row only.

        Raises
        ------
        UserError
            No row has this label, and no or several rows have this method.
        """
        rows = self.matching(name)
        if len(rows) != 1:
            labels = [row.label for row in self.rows]
            raise unknown_name("row", name, labels, f"the rows are {', '.join(labels)}")
        return rows[0]


def _words(label: str) -> list[str]:
    """Return the words of a row's label; case, punctuation of names and digits after a number do not matter."""
    words = []
    for word in label.split():
        key, equals, text = word.partition("=")
        try:
            words.append(f"{key}={float(text)}" if equals else squeeze(word))
        except ValueError:
            words.append(word)
    return [word.lower() for word in words]


def settings_text(values: Mapping[str, Any]) -> str:
    """Write settings, or overrides of a protocol, as ``name=value`` words."""
    return " ".join(
        f"{name}={json.dumps(value) if isinstance(value, list | dict) else value}" for name, value in values.items()
    )


def num_digits(hashes: Iterable[str]) -> int:
    """Return how many first letters tell different hashes apart, at least 8."""
    distinct = set(hashes)
    return next((n for n in range(8, 64, 4) if len({text[:n] for text in distinct}) == len(distinct)), 64)


def position(name: str, ordered: Sequence[str]) -> int:
    """Return the position of a name in a list; names that are not in it come last."""
    return ordered.index(name) if name in ordered else len(ordered)
