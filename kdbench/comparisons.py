"""Comparisons: the records that may stand in one table, as methods x pairs x seeds.

Records under different rules are never mixed: each protocol with its overrides, data and way to choose the epoch is
a comparison of its own. Within one, each teacher (network, identity, weights) with a student is a pair, and records
of a method that differ in version, chosen settings or views, or in the settings that were resolved for a pair, are
rows of their own.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from kdbench.identity import identity_text
from kdbench.names import find_name
from kdbench.protocol import load_protocol, named_pairs, protocol_names
from kdbench.runs import Begun, Records

Epoch = Literal["last", "best"]
COLUMN: dict[Epoch, str] = {"last": "top1", "best": "best_top1"}
"""The accuracy after the last epoch, and the best one on the test set, which is never the headline."""
FAMILIES = ("none", "logits", "features", "relations", "contrast")
"""Of methods, in the order of tables."""


@dataclass(frozen=True, slots=True, order=True)
class Pair:
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
    pairs: tuple[Pair, ...]
    rows: tuple[Row, ...]
    """In the order of families and names."""
    results: Mapping[tuple[Row, Pair], Result]
    alone: Row | None
    """The row of students without a teacher."""
    frame: pd.DataFrame
    """All its records, those of teachers left out."""

    def result(self, row: Row, pair: Pair) -> Result | None:
        """What there is of a row and a pair; students without a teacher stand in all their pairs."""
        return self.results.get((row, pair))

    def seeds(self, pair: Pair) -> set[int]:
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


def compare(records: Records) -> list[Comparison]:
    """Split records into those that may be compared, in the order of their protocols' names."""
    frame = records.frame
    if frame.empty:
        return []
    taught = frame["teacher"] != ""
    teachers = set(frame.loc[taught, "teacher_id"].str.removeprefix("cell:"))
    frame = frame[taught | ~frame["cell"].isin(teachers) | frame["student"].isin(set(frame.loc[taught, "student"]))]
    groups = [(json.loads(str(key)), group) for key, group in frame.groupby("rules", sort=True)]
    titles = _titles([rules for rules, _ in groups], [_overrides(group) for _, group in groups])
    begun: defaultdict[str, list[Begun]] = defaultdict(list)
    for cell in records.begun:
        begun[identity_text(cell.config["protocol"])].append(cell)
    return [
        _comparison(rules, title, group, begun.pop(identity_text(_protocol(rules)), []))
        for (rules, group), title in zip(groups, titles, strict=True)
    ]


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


def _overrides(group: pd.DataFrame) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(group["overrides"].iloc[0])
    return values


def _protocol(rules: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rules.items() if key not in {"data", "epoch_rule"}}


def _titles(rules: Sequence[dict[str, Any]], overrides: Sequence[dict[str, Any]]) -> list[str]:
    """Names of rules, as long as is needed to tell them apart."""
    titles = [f"{r['name']}{f', with {settings_text(o)}' if o else ''}" for r, o in zip(rules, overrides, strict=True)]
    for key, word in (("version", "version"), ("data", "data"), ("epoch_rule", "epoch")):
        values = defaultdict(set)
        for title, own in zip(titles, rules, strict=True):
            values[title].add(own[key])
        titles = [
            f"{title}, {word} {str(own[key])[:8]}" if len(values[title]) > 1 else title
            for title, own in zip(titles, rules, strict=True)
        ]
    return titles


def _comparison(rules: dict[str, Any], title: str, frame: pd.DataFrame, begun: Sequence[Begun]) -> Comparison:
    frame = frame.assign(distinct=_distinct_settings(frame))
    pairs = _pairs(frame, begun)
    frames: dict[tuple[Row, Pair], pd.DataFrame] = {}
    keys = ["method", "method_version", "distinct", "views", "teacher", "student", "teacher_id", "teacher_weights"]
    for _, group in frame.groupby(keys, sort=True):
        first = group.iloc[0]
        row = Row(
            first["method"], int(first["method_version"]), first["distinct"], int(first["views"]), first["family"]
        )
        taught = (first["teacher_id"], first["teacher_weights"]) if first["teacher"] else None
        own = group.set_index("seed").sort_index()
        for pair in pairs:
            if pair.student == first["student"] and taught in {None, (pair.teacher_id, pair.teacher_weights)}:
                frames[row, pair] = own
    waiting = _waiting(begun, pairs, {row for row, _ in frames})
    rows = _labelled({row for row, _ in itertools.chain(frames, waiting)})
    empty = frame.iloc[:0].set_index("seed")
    results = {
        (rows[row], pair): Result(frames.get((row, pair), empty), tuple(waiting.get((row, pair), ())))
        for row, pair in dict.fromkeys(itertools.chain(frames, waiting))
    }
    untaught = {rows[row] for row, pair in frames if not frames[row, pair]["teacher"].iloc[0]}
    return Comparison(
        title=title,
        rules=rules,
        overrides=_overrides(frame),
        pairs=pairs,
        rows=tuple(sorted(rows.values(), key=_order)),
        results=results,
        alone=_alone(rules["name"], untaught),
        frame=frame,
    )


def _distinct_settings(frame: pd.DataFrame) -> pd.Series[str]:
    """The chosen settings of each record, and those that differ although the same were chosen, as JSON.

    Published settings differ between pairs and are no difference; two records of one pair must not hide one.
    """
    own = ["method", "method_version", "chosen", "views"]
    distinct = frame["chosen"].copy()
    variants = frame.groupby([*own, "student", "teacher"])["settings"].nunique()
    for key in {index[:4] for index, number in variants.items() if number > 1}:  # type: ignore[index]
        alike = (frame[own] == list(key)).all(axis=1)
        differing: set[str] = set()
        for _, group in frame[alike].groupby(["student", "teacher"]):
            texts = [json.loads(text) for text in group["settings"].unique()]
            names = {name for text in texts for name in text}
            differing |= {name for name in names if len({str(text.get(name)) for text in texts}) > 1}
        distinct[alike] = [
            identity_text(json.loads(chosen) | {name: json.loads(settings).get(name) for name in sorted(differing)})
            for chosen, settings in zip(frame.loc[alike, "chosen"], frame.loc[alike, "settings"], strict=True)
        ]
    return distinct


def _pairs(frame: pd.DataFrame, begun: Sequence[Begun]) -> tuple[Pair, ...]:
    """Teachers with their students, as far as they are known, and students that never had one."""
    columns = ["teacher", "student", "teacher_id", "teacher_weights"]
    firsts = frame.drop_duplicates(columns)
    pairs = [
        Pair(teacher, student, identity, weights, accuracy)
        for teacher, student, identity, weights, accuracy in zip(
            *(firsts[name] for name in (*columns, "teacher_accuracy")), strict=True
        )
    ]
    known = {(pair.student, pair.teacher_id) for pair in pairs}
    for cell in begun:
        teacher = cell.config["teacher"]
        key = cell.config["student"], teacher.get("id", "")
        if teacher and key not in known:
            known.add(key)
            pairs.append(Pair(teacher["network"], key[0], key[1]))
    taught = {pair.student for pair in pairs if pair.teacher}
    pairs = [pair for pair in pairs if pair.teacher or pair.student not in taught]
    several = defaultdict(set)
    for pair in pairs:
        several[pair.teacher].add((pair.teacher_id, pair.teacher_weights))
    usual = [pair for members in named_pairs().values() for pair in members.pairs]
    ordered = sorted(pairs, key=lambda pair: (_place(f"{pair.teacher}>{pair.student}", usual), pair))
    return tuple(replace(pair, name=_pair_name(pair, several[pair.teacher])) for pair in ordered)


def _pair_name(pair: Pair, several: set[tuple[str, str]]) -> str:
    if not pair.teacher:
        return f"{pair.student} alone"
    if len(several) == 1:
        return f"{pair.teacher} > {pair.student}"
    hashed = pair.short if len({identity for identity, _ in several}) > 1 else f"weights {pair.teacher_weights[:8]}"
    return f"{pair.teacher} ({hashed}) > {pair.student}"


def _waiting(
    begun: Sequence[Begun], pairs: Sequence[Pair], rows: set[Row]
) -> defaultdict[tuple[Row, Pair], list[Begun]]:
    """Cells without a record, in the rows and pairs that they belong to."""
    waiting: defaultdict[tuple[Row, Pair], list[Begun]] = defaultdict(list)
    for cell in begun:
        method, teacher = cell.config["method"], cell.config["teacher"]
        chosen = identity_text(cell.config.get("chosen", {}))
        key = method["name"], method["version"], chosen
        own = [row for row in rows if (row.method, row.version, row.settings) == key]
        row = own[0] if own else Row(*key, views=0, family="")
        for pair in pairs:
            if pair.student == cell.config["student"] and (not teacher or pair.teacher_id == teacher["id"]):
                waiting[row, pair].append(cell)
    return waiting


def _labelled(rows: set[Row]) -> dict[Row, Row]:
    """Rows with labels that tell them apart, and with their family."""
    plain = {row: f"{row.method} {settings_text(row.chosen)}".strip() for row in rows}
    versions, views = defaultdict(set), defaultdict(set)
    for row, label in plain.items():
        versions[label].add(row.version)
        views[label, row.version].add(row.views)
    labelled = {}
    for row, label in plain.items():
        version = f" (version {row.version})" if len(versions[label]) > 1 else ""
        view = f" ({row.views} views)" if len(views[label, row.version]) > 1 else ""
        labelled[row] = replace(row, label=f"{label}{version}{view}", family=row.family or _family(row.method))
    return labelled


def _family(method: str) -> str:
    """The family of a method whose records do not say it."""
    from kdbench.registry import load_method, method_names  # noqa: PLC0415

    return load_method(method).FAMILY if method in method_names() else "other"


def _order(row: Row) -> tuple[int, str]:
    return _place(row.family, FAMILIES), row.label


def _place(name: str, ordered: Sequence[str]) -> int:
    """The position of a name, behind all where it has none."""
    return ordered.index(name) if name in ordered else len(ordered)


def _alone(protocol: str, untaught: set[Row]) -> Row | None:
    """The row of students without a teacher that others are measured by."""
    if len(untaught) == 1:
        return next(iter(untaught))
    name = load_protocol(protocol).alone if protocol in protocol_names() else ""
    plain = [row for row in untaught if row.method == name and not row.chosen]
    return plain[0] if len(plain) == 1 else None
