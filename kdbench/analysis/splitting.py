"""Split records into comparisons.

Records under different rules are never mixed: each protocol with its overrides, data and epoch rule is a comparison of
its own. In a comparison, each teacher (network, identity, weights) with a student is a pair. Records of one method that
differ in version, changed settings or views, or in the settings that were resolved for a pair, are separate rows.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from kdbench.analysis.comparison import FAMILIES, ComparedPair, Comparison, Result, Row, position, settings_text
from kdbench.analysis.records import Records, UnfinishedCell
from kdbench.experiment.identity import identity_text
from kdbench.experiment.pairs import usual_pairs
from kdbench.experiment.protocol import load_protocol, protocol_names


def split(records: Records) -> list[Comparison]:
    """Split records into comparisons, in the order of their protocols' names."""
    frame = records.frame
    if frame.empty:
        return []
    has_teacher = frame["teacher"] != ""
    teachers = set(frame.loc[has_teacher, "teacher_id"].str.removeprefix("cell:"))
    students = set(frame.loc[has_teacher, "student"])
    frame = frame[has_teacher | ~frame["cell"].isin(teachers) | frame["student"].isin(students)]
    groups = [(json.loads(str(key)), group) for key, group in frame.groupby("rules", sort=True)]
    titles = _titles([rules for rules, _ in groups], [_overrides(group) for _, group in groups])
    unfinished: defaultdict[str, list[UnfinishedCell]] = defaultdict(list)
    for cell in records.unfinished:
        unfinished[identity_text(cell.config["protocol"])].append(cell)
    return [
        _comparison(rules, title, group, unfinished.pop(identity_text(_protocol(rules)), []))
        for (rules, group), title in zip(groups, titles, strict=True)
    ]


def _overrides(group: pd.DataFrame) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(group["overrides"].iloc[0])
    return values


def _protocol(rules: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rules.items() if key not in {"data", "epoch_rule"}}


def _titles(rules: Sequence[dict[str, Any]], overrides: Sequence[dict[str, Any]]) -> list[str]:
    """Return names of rules, as long as needed to distinguish them."""
    titles = [
        f"{values['name']}{f', with {settings_text(changes)}' if changes else ''}"
        for values, changes in zip(rules, overrides, strict=True)
    ]
    for key, word in (("version", "version"), ("data", "data"), ("epoch_rule", "epoch")):
        distinct = defaultdict(set)
        for title, values in zip(titles, rules, strict=True):
            distinct[title].add(values[key])
        titles = [
            f"{title}, {word} {str(values[key])[:8]}" if len(distinct[title]) > 1 else title
            for title, values in zip(titles, rules, strict=True)
        ]
    return titles


def _comparison(
    rules: dict[str, Any], title: str, frame: pd.DataFrame, unfinished: Sequence[UnfinishedCell]
) -> Comparison:
    frame = frame.assign(distinct=_distinct_settings(frame))
    pairs = _pairs(frame, unfinished)
    frames = _frames(frame, pairs)
    cells = _unfinished_cells(unfinished, pairs, {row for row, _ in frames})
    rows = _labelled({row for row, _ in itertools.chain(frames, cells)})
    empty = frame.iloc[:0].set_index("seed")
    results = {
        (rows[row], pair): Result(frames.get((row, pair), empty), tuple(cells.get((row, pair), ())))
        for row, pair in dict.fromkeys(itertools.chain(frames, cells))
    }
    without_teacher = {rows[row] for row, pair in frames if not frames[row, pair]["teacher"].iloc[0]}
    return Comparison(
        title=title,
        rules=rules,
        overrides=_overrides(frame),
        pairs=pairs,
        rows=tuple(sorted(rows.values(), key=_order)),
        results=results,
        student_only=_student_only(rules["name"], without_teacher),
        frame=frame,
    )


def _frames(frame: pd.DataFrame, pairs: Sequence[ComparedPair]) -> dict[tuple[Row, ComparedPair], pd.DataFrame]:
    """Group records by row and pair, indexed by seed; those without a teacher belong to all pairs of their student."""
    frames: dict[tuple[Row, ComparedPair], pd.DataFrame] = {}
    keys = ["method", "method_version", "distinct", "views", "teacher", "student", "teacher_id", "teacher_weights"]
    for _, group in frame.groupby(keys, sort=True):
        first = group.iloc[0]
        row = Row(
            first["method"], int(first["method_version"]), first["distinct"], int(first["views"]), first["family"]
        )
        teacher = (first["teacher_id"], first["teacher_weights"]) if first["teacher"] else None
        by_seed = group.set_index("seed").sort_index()
        for pair in pairs:
            if pair.student == first["student"] and teacher in {None, (pair.teacher_id, pair.teacher_weights)}:
                frames[row, pair] = by_seed
    return frames


def _distinct_settings(frame: pd.DataFrame) -> pd.Series[str]:
    """Return each record's changed settings, and those that differ within a pair although the same were changed.

    Published settings may differ between pairs: that makes no new row. Two records of one pair with different settings
    must not share a row.

    Returns
    -------
    pandas.Series
        ``(records,)``: JSON texts.
    """
    columns = ["method", "method_version", "chosen", "views"]
    distinct = frame["chosen"].copy()
    variants = frame.groupby([*columns, "student", "teacher"])["settings"].nunique()
    for key in {index[:4] for index, number in variants.items() if number > 1}:  # type: ignore[index]
        alike = (frame[columns] == list(key)).all(axis=1)
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


def _pairs(frame: pd.DataFrame, unfinished: Sequence[UnfinishedCell]) -> tuple[ComparedPair, ...]:
    """Return the pairs of all records and unfinished cells, and the students that have no teacher in any of them."""
    columns = ["teacher", "student", "teacher_id", "teacher_weights"]
    firsts = frame.drop_duplicates(columns)
    pairs = [
        ComparedPair(teacher, student, identity, weights, accuracy)
        for teacher, student, identity, weights, accuracy in zip(
            *(firsts[name] for name in (*columns, "teacher_accuracy")), strict=True
        )
    ]
    keys = {(pair.student, pair.teacher_id) for pair in pairs}
    for cell in unfinished:
        teacher = cell.config["teacher"]
        key = cell.config["student"], teacher.get("id", "")
        if teacher and key not in keys:
            keys.add(key)
            pairs.append(ComparedPair(teacher["network"], key[0], key[1]))
    with_teacher = {pair.student for pair in pairs if pair.teacher}
    pairs = [pair for pair in pairs if pair.teacher or pair.student not in with_teacher]
    teachers = defaultdict(set)
    for pair in pairs:
        teachers[pair.teacher].add((pair.teacher_id, pair.teacher_weights))
    usual = list(map(str, usual_pairs()))
    ordered = sorted(pairs, key=lambda pair: (position(f"{pair.teacher}>{pair.student}", usual), pair))
    return tuple(replace(pair, name=_pair_name(pair, teachers[pair.teacher])) for pair in ordered)


def _pair_name(pair: ComparedPair, teachers: set[tuple[str, str]]) -> str:
    """Name a pair, given the identities and weights of all teachers of its network."""
    if not pair.teacher:
        return f"{pair.student}, student only"
    if len(teachers) == 1:
        return f"{pair.teacher} > {pair.student}"
    several_ids = len({identity for identity, _ in teachers}) > 1
    distinction = pair.short_id if several_ids else f"weights {pair.teacher_weights[:8]}"
    return f"{pair.teacher} ({distinction}) > {pair.student}"


def _unfinished_cells(
    unfinished: Sequence[UnfinishedCell], pairs: Sequence[ComparedPair], rows: set[Row]
) -> defaultdict[tuple[Row, ComparedPair], list[UnfinishedCell]]:
    """Group unfinished cells by row and pair."""
    cells: defaultdict[tuple[Row, ComparedPair], list[UnfinishedCell]] = defaultdict(list)
    for cell in unfinished:
        method, teacher = cell.config["method"], cell.config["teacher"]
        key = method["name"], method["version"], identity_text(cell.config.get("chosen", {}))
        matches = [row for row in rows if (row.method, row.version, row.settings) == key]
        row = matches[0] if matches else Row(*key, views=0, family="")
        for pair in pairs:
            if pair.student == cell.config["student"] and (not teacher or pair.teacher_id == teacher["id"]):
                cells[row, pair].append(cell)
    return cells


def _labelled(rows: set[Row]) -> dict[Row, Row]:
    """Add labels that distinguish rows, and missing families; returns the new rows by the old ones."""
    plain = {row: f"{row.method} {settings_text(row.changed)}".strip() for row in rows}
    versions, views = defaultdict(set), defaultdict(set)
    for row, label in plain.items():
        versions[label].add(row.version)
        views[label, row.version].add(row.views)
    labelled = {}
    for row, label in plain.items():
        version = f" (version {row.version})" if len(versions[label]) > 1 else ""
        num_views = f" ({row.views} views)" if len(views[label, row.version]) > 1 else ""
        labelled[row] = replace(row, label=f"{label}{version}{num_views}", family=row.family or _family(row.method))
    return labelled


def _family(method: str) -> str:
    """Look up the family of a method whose records lack it."""
    from kdbench.experiment.registry import load_method, method_names  # noqa: PLC0415

    return load_method(method).FAMILY if method in method_names() else "other"


def _order(row: Row) -> tuple[int, str]:
    return position(row.family, FAMILIES), row.label


def _student_only(protocol: str, rows: set[Row]) -> Row | None:
    """Choose the student-only baseline among the rows without a teacher."""
    if len(rows) == 1:
        return next(iter(rows))
    name = load_protocol(protocol).baseline if protocol in protocol_names() else ""
    defaults = [row for row in rows if row.method == name and not row.changed]
    return defaults[0] if len(defaults) == 1 else None
