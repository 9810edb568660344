"""Splits records into what may be compared.

Records under different rules are never mixed: each protocol with its overrides, data and way to choose the epoch is
a comparison of its own. Within one, each teacher (network, identity, weights) with a student is a pair, and records
of a method that differ in version, chosen settings or views, or in the settings that were resolved for a pair, are
rows of their own.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from kdbench.analysis.comparison import FAMILIES, ComparedPair, Comparison, Result, Row, place, settings_text
from kdbench.analysis.records import Begun, Records
from kdbench.experiment.identity import identity_text
from kdbench.experiment.pairs import usual_pairs
from kdbench.experiment.protocol import load_protocol, protocol_names


def split(records: Records) -> list[Comparison]:
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
    frames: dict[tuple[Row, ComparedPair], pd.DataFrame] = {}
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


def _pairs(frame: pd.DataFrame, begun: Sequence[Begun]) -> tuple[ComparedPair, ...]:
    """Teachers with their students, as far as they are known, and students that never had one."""
    columns = ["teacher", "student", "teacher_id", "teacher_weights"]
    firsts = frame.drop_duplicates(columns)
    pairs = [
        ComparedPair(teacher, student, identity, weights, accuracy)
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
            pairs.append(ComparedPair(teacher["network"], key[0], key[1]))
    taught = {pair.student for pair in pairs if pair.teacher}
    pairs = [pair for pair in pairs if pair.teacher or pair.student not in taught]
    several = defaultdict(set)
    for pair in pairs:
        several[pair.teacher].add((pair.teacher_id, pair.teacher_weights))
    usual = list(map(str, usual_pairs()))
    ordered = sorted(pairs, key=lambda pair: (place(f"{pair.teacher}>{pair.student}", usual), pair))
    return tuple(replace(pair, name=_pair_name(pair, several[pair.teacher])) for pair in ordered)


def _pair_name(pair: ComparedPair, several: set[tuple[str, str]]) -> str:
    if not pair.teacher:
        return f"{pair.student} alone"
    if len(several) == 1:
        return f"{pair.teacher} > {pair.student}"
    hashed = pair.short if len({identity for identity, _ in several}) > 1 else f"weights {pair.teacher_weights[:8]}"
    return f"{pair.teacher} ({hashed}) > {pair.student}"


def _waiting(
    begun: Sequence[Begun], pairs: Sequence[ComparedPair], rows: set[Row]
) -> defaultdict[tuple[Row, ComparedPair], list[Begun]]:
    """Cells without a record, in the rows and pairs that they belong to."""
    waiting: defaultdict[tuple[Row, ComparedPair], list[Begun]] = defaultdict(list)
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
    from kdbench.experiment.registry import load_method, method_names  # noqa: PLC0415

    return load_method(method).FAMILY if method in method_names() else "other"


def _order(row: Row) -> tuple[int, str]:
    return place(row.family, FAMILIES), row.label


def _alone(protocol: str, untaught: set[Row]) -> Row | None:
    """The row of students without a teacher that others are measured by."""
    if len(untaught) == 1:
        return next(iter(untaught))
    name = load_protocol(protocol).baseline if protocol in protocol_names() else ""
    plain = [row for row in untaught if row.method == name and not row.chosen]
    return plain[0] if len(plain) == 1 else None
