"""Split records into comparisons.

Records under different rules are never mixed: each protocol with its overrides, data and epoch rule is a comparison of
its own. Students without a teacher that were trained for longer stand beside those that have one, as rows that name
their epochs: controls at equal compute, and no baseline. In a comparison, each teacher (network, identity, weights)
with a student is a pair. Records of one method that differ in version, code, changed settings or views, or in the
settings that were resolved for a pair, are separate rows.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from kdbench.analysis.beside import protocol_of, with_controls
from kdbench.analysis.comparison import FAMILIES, ComparedPair, Comparison, Result, Row, position, settings_text
from kdbench.analysis.networks import named_alike, told_apart
from kdbench.analysis.pairing import find_pairs
from kdbench.analysis.records import Records, UnfinishedCell
from kdbench.analysis.searched import with_searches
from kdbench.analysis.searches import Search, searches_for, searches_of
from kdbench.experiment.identity import identity_text
from kdbench.experiment.pairs import JOIN
from kdbench.experiment.protocol import load_protocol, protocol_names
from kdbench.utils.text import inflected


def split(records: Records) -> list[Comparison]:
    """Split records into comparisons, in the order of their protocols' names."""
    searches = searches_of(records)
    records = told_apart(named_alike(with_searches(records)))
    frame = records.frame
    if frame.empty:
        return []
    is_teacher = _only_teachers(frame, records.unfinished)
    teachers = {str(key): group for key, group in frame[is_teacher].groupby("rules")}
    frame, cells = with_controls(frame[~is_teacher], records.unfinished)
    groups = [(json.loads(str(key)), group) for key, group in frame.groupby("rules", sort=True)]
    titles = _titles([rules for rules, _ in groups], [_overrides(group) for _, group in groups])
    unfinished: defaultdict[str, list[UnfinishedCell]] = defaultdict(list)
    for protocol, cell in cells:
        unfinished[protocol].append(cell)
    return [
        _comparison(
            rules,
            title,
            group,
            teachers.get(group["rules"].iloc[0], frame.iloc[:0]),
            unfinished.pop(identity_text(protocol_of(rules)), []),
            searches,
        )
        for (rules, group), title in zip(groups, titles, strict=True)
    ]


def _only_teachers(frame: pd.DataFrame, unfinished: Sequence[UnfinishedCell]) -> pd.Series[bool]:
    """Find the records of teachers' own runs, which are no runs of a student trained without a teacher.

    The record of such a run does not say what it was made for. It counts as a student's, too, if the same network was
    also trained in another way with the same rules and seed: then its seed is one of the student's seeds.

    Returns
    -------
    pandas.Series
        ``(records,)``.
    """
    named = {*frame["teacher_id"], *(cell.config["teacher"].get("id", "") for cell in unfinished)}
    teachers = {member for teacher in named for member in teacher.split(JOIN)}  # those of ensembles as well
    is_teacher = ("cell:" + frame["cell"]).isin(teachers)
    protocols = {rules: identity_text(protocol_of(json.loads(rules))) for rules in frame["rules"].unique()}
    runs = pd.Series(
        list(zip(frame["rules"].map(protocols), frame["student"], frame["seed"], strict=True)),
        frame.index,
        dtype=object,
    )
    student_runs = {*runs[~is_teacher]}
    for cell in unfinished:
        student_runs.add((identity_text(cell.config["protocol"]), cell.config["student"], cell.config["seed"]))
    return is_teacher & ~runs.isin(student_runs)


def _overrides(group: pd.DataFrame) -> dict[str, Any]:
    """Return the overrides of records of the same rules, for people: see :attr:`Comparison.dataset`."""
    values: dict[str, Any] = json.loads(group["overrides"].iloc[0])
    return values | {key: _dataset(group) for key in values if key == "dataset"}


def _dataset(group: pd.DataFrame) -> str:
    """Return the data set of records of one, with the names that users gave it where the rules have only its hash."""
    rules = json.loads(group["rules"].iloc[0])
    names = sorted({name for name in group["data_name"] if name})
    return f"{rules['dataset']} ({' or '.join(names)})" if names else str(rules["dataset"])


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
    alike = defaultdict(list)
    for title, values in zip(titles, rules, strict=True):
        alike[title].append(values)
    return [_with_rules(title, values, alike[title]) for title, values in zip(titles, rules, strict=True)]


def _with_rules(title: str, rules: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> str:
    """Add to a title the rules in which those differ that have it: a protocol was changed under its version."""
    differing = {key: rules[key] for key in rules if len({identity_text(values.get(key)) for values in alike}) > 1}
    return f"{title}, {settings_text(differing)}" if differing else title


def _comparison(
    rules: dict[str, Any],
    title: str,
    frame: pd.DataFrame,
    teachers: pd.DataFrame,
    unfinished: Sequence[UnfinishedCell],
    searches: Sequence[Search],
) -> Comparison:
    longer = frame["epochs"].where(frame["epochs"] != rules["epochs"], 0)
    frame = frame.assign(distinct=_distinct_settings(frame), longer=longer)
    pairs = find_pairs(frame, unfinished)
    frames = _frames(frame, pairs)
    cells = _unfinished_cells(unfinished, pairs, {row for row, _ in frames}, rules["epochs"])
    rows = _labelled({row for row, _ in itertools.chain(frames, cells)})
    empty = frame.iloc[:0].set_index("seed")
    results = {
        (rows[row], pair): Result(frames.get((row, pair), empty), tuple(cells.get((row, pair), ())))
        for row, pair in dict.fromkeys(itertools.chain(frames, cells))
    }
    students = {pair.student for pair in pairs}
    without_teacher = {rows[row] for row, pair in frames if not frames[row, pair]["teacher"].iloc[0]}
    return Comparison(
        title=title,
        rules=rules,
        dataset=_dataset(frame),
        overrides=_overrides(frame),
        pairs=pairs,
        rows=tuple(sorted(rows.values(), key=_order)),
        results=results,
        student_only=_student_only(rules["name"], without_teacher),
        num_variants=Counter(row.method for row in rows.values() if not row.tuning and not row.epochs),
        teacher_runs=tuple(
            sorted({(n, int(s)) for n, s in zip(teachers["student"], teachers["seed"], strict=True) if n in students})
        ),
        searches=searches_for(searches, rules, [(pair.teacher_id, pair.student) for pair in pairs]),
    )


def _frames(frame: pd.DataFrame, pairs: Sequence[ComparedPair]) -> dict[tuple[Row, ComparedPair], pd.DataFrame]:
    """Group records by row and pair, indexed by seed; those without a teacher belong to all pairs of their student."""
    frames: dict[tuple[Row, ComparedPair], pd.DataFrame] = {}
    keys = ["tuning", "method", "method_version", "distinct", "views", "code", "longer"]
    keys += ["teacher", "student", "teacher_id", "teacher_weights"]
    for _, group in frame.groupby(keys, sort=True):
        first = group.iloc[0]
        numbers = int(first["method_version"]), first["distinct"], int(first["views"])
        row = Row(
            first["method"],
            *numbers,
            first["code"],
            first["family"],
            tuning=first["tuning"],
            epochs=int(first["longer"]),
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
    columns = ["tuning", "method", "method_version", "chosen", "views"]
    distinct = frame["chosen"].copy()
    variants = frame.groupby([*columns, "student", "teacher"])["settings"].nunique()
    for key in {index[:5] for index, number in variants.items() if number > 1}:  # type: ignore[index]
        alike = (frame[columns] == list(key)).all(axis=1)
        differing: set[str] = set()
        for _, group in frame[alike].groupby(["student", "teacher"]):
            texts = [json.loads(text) for text in group["settings"].unique()]
            names = {name for text in texts for name in text}
            differing |= {name for name in names if len({identity_text(text.get(name)) for text in texts}) > 1}
        distinct[alike] = [
            identity_text(json.loads(chosen) | {name: json.loads(settings).get(name) for name in sorted(differing)})
            for chosen, settings in zip(frame.loc[alike, "chosen"], frame.loc[alike, "settings"], strict=True)
        ]
    return distinct


def _unfinished_cells(
    unfinished: Sequence[UnfinishedCell], pairs: Sequence[ComparedPair], rows: set[Row], epochs: int
) -> defaultdict[tuple[Row, ComparedPair], list[UnfinishedCell]]:
    """Group unfinished cells by row and pair."""
    cells: defaultdict[tuple[Row, ComparedPair], list[UnfinishedCell]] = defaultdict(list)
    for cell in unfinished:
        method, teacher = cell.config["method"], cell.config["teacher"]
        key = method["name"], method["version"], identity_text(cell.config.get("chosen", {}))
        tuning, length = cell.config.get("tuning", ""), cell.config["protocol"]["epochs"]
        new = Row(*key, views=0, code="", family="", tuning=tuning, epochs=0 if length == epochs else length)
        matches = [row for row in rows if replace(row, views=0, code="") == new]
        row = min(matches, key=lambda row: (row.views, row.code), default=new)
        for pair in pairs:
            if pair.student == cell.config["student"] and (not teacher or pair.teacher_id == teacher["id"]):
                cells[row, pair].append(cell)
    return cells


def _labelled(rows: set[Row]) -> dict[Row, Row]:
    """Add labels that distinguish rows, and missing families; returns the new rows by the old ones."""
    labels = {row: f"{row.method} {settings_text(row.changed)}".strip() for row in rows}
    labels = {row: f"{label} ({row.tuning})" if row.tuning else label for row, label in labels.items()}
    lengths = {row: f" ({row.epochs} {inflected('epoch', row.epochs)})" if row.epochs else "" for row in rows}
    labels = {row: f"{label}{lengths[row]}" for row, label in labels.items()}
    labels = _distinguished(labels, {row: f"version {row.version}" for row in rows})
    labels = _distinguished(labels, {row: f"{row.views} {inflected('view', row.views)}" for row in rows if row.views})
    labels = _distinguished(labels, {row: f"code {row.code or 'unknown'}" for row in rows if row.views})
    return {row: replace(row, label=labels[row], family=row.family or _family(row.method)) for row in rows}


def _distinguished(labels: Mapping[Row, str], words: Mapping[Row, str]) -> dict[Row, str]:
    """Add words in brackets to equal labels of rows that differ in them."""
    distinct = defaultdict(set)
    for row, word in words.items():
        distinct[labels[row]].add(word)
    return {
        row: f"{label} ({words[row]})" if row in words and len(distinct[label]) > 1 else label
        for row, label in labels.items()
    }


def _family(method: str) -> str:
    """Look up the family of a method whose records lack it."""
    from kdbench.experiment.registry import load_method, method_names  # noqa: PLC0415

    return load_method(method).FAMILY if method in method_names() else "other"


def _order(row: Row) -> tuple[int, str]:
    return position(row.family, FAMILIES), row.label


def _student_only(protocol: str, rows: set[Row]) -> Row | None:
    """Choose the student-only baseline among the rows without a teacher: never a control, nor a way to distil."""
    plain = [row for row in rows if not row.changed and not row.tuning and not row.epochs and row.family == "none"]
    name = load_protocol(protocol).baseline if protocol in protocol_names() else ""
    defaults = [row for row in plain if row.method == name] if len(plain) > 1 else plain
    return defaults[0] if len(defaults) == 1 else None
