"""Published values as tables: of their own, or with our results, but never ranked or tested with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from kdbench.analysis.comparison import FAMILIES, ComparedPair, Comparison, place
from kdbench.analysis.published.values import Published, PublishedValue
from kdbench.analysis.tables.entries import fixed, with_difference
from kdbench.analysis.tables.layouts import Marks
from kdbench.analysis.tables.table import MISSING, Entry, Mark, Table, words
from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair, usual_pairs
from kdbench.experiment.protocol import load_protocol

_NETWORKS = ("Teacher", "Student")
NOT_OURS = "published values are what their sources print; they are never ranked or tested with ours"


def printed_table(published: Published, source: str, baseline: str | None = None, marks: Marks = "all") -> Table:
    """A source's table as it was printed, with differences to one of its rows; NA where it has no value.

    Raises
    ------
    UserError
        The source is not one printed table, or the baseline is none of its rows.
    """
    frame = published.printed(source)
    kept = published.sources[source].table
    assert kept is not None
    base = _row(frame, baseline or kept.baseline)
    columns = []
    for pair in frame:
        values = {str(row): float(value) for row, value in frame[pair].items()}
        marked = _ranked({row: value for row, value in values.items() if row not in _NETWORKS}, marks)
        columns.append([_entry(values, row, base, marked) for row in values])
    rows = [(*words(str(row)), *(column[number] for column in columns)) for number, row in enumerate(frame.index)]
    found = published.sources[source]
    return Table(
        found.title,
        _heads([str(pair) for pair in frame]),
        tuple(rows),
        (
            f"top-1 on the test set of {published.dataset} in % as printed; NA: not printed; {_EPOCHS[found.epoch]}",
            f"↑ ↓: difference to {base}",
            *(
                ["bold and underlined: best and second of the printed values; nothing is tested"]
                if marks != "none"
                else []
            ),
            NOT_OURS,
        ),
    )


_EPOCHS = {
    "last": "after the last epoch",
    "best": "in the best epoch on the test set",
    "unknown": "in an epoch that is not stated",
}


def published_tables(published: Published) -> list[Table]:
    """All values of a selection: those under each protocol in one table, those that are not in one for each source."""
    frame = published.frame
    tables = [_under(published, str(name), own) for name, own in frame[frame["protocol"] != ""].groupby("protocol")]
    apart = frame[frame["protocol"] == ""]
    return tables + [_apart(published, str(key), own) for key, own in apart.groupby("source", sort=False)]


def with_published(table: Table, comparison: Comparison, published: Published, *, beside: bool) -> Table:
    """Our paper table with the published values of its methods and pairs, under the same protocol and comparable ones.

    Parameters
    ----------
    beside
        In brackets behind our numbers; otherwise as a block of rows of their own.

    Raises
    ------
    UserError
        They are of another data set.
    """
    if published.dataset != comparison.rules["dataset"]:
        raise UserError(
            f"{comparison.title} is of {comparison.rules['dataset']}: values of {published.dataset} do not belong"
        )
    if comparison.overrides:
        return replace(table, notes=(*table.notes, "no published values: no paper has these rules"))
    found: dict[tuple[str, ComparedPair], PublishedValue] = {}
    for row in comparison.rows:
        for pair in comparison.pairs:
            values = published.values_for(f"{pair.teacher}>{pair.student}", row.method, comparison.rules["name"])
            if not row.chosen and values and values[0].comparable:
                found[row.label, pair] = values[0]
    sources = ", ".join(dict.fromkeys(value.source for value in found.values()))
    where = "in brackets" if beside else "the last rows"
    notes = (*table.notes, f"{where}: published under the same protocol ({sources or 'none'}); {NOT_OURS}")
    if beside:
        return replace(table, rows=tuple(_beside(line, comparison, found) for line in table.rows), notes=notes)
    block: list[tuple[Entry, ...]] = []
    for label in dict.fromkeys(label for label, _ in found):
        printed = [found.get((label, pair)) for pair in comparison.pairs]
        entries = [_published(value) if value else Entry(MISSING) for value in printed]
        block.append((*words("" if block else "published", label), *entries, *words("")))
    return replace(table, rows=(*table.rows, *block), notes=notes)


def _beside(
    line: tuple[Entry, ...], comparison: Comparison, found: Mapping[tuple[str, ComparedPair], PublishedValue]
) -> tuple[Entry, ...]:
    alone = comparison.alone.label if comparison.alone else ""
    label = alone if line[1].text == "Student" else line[1].text
    entries = list(line)
    for number, pair in enumerate(comparison.pairs, 2):
        value = found.get((label, pair))
        if value:
            own, other = entries[number], _published(value)
            numbers = dict(own.numbers) | {f"published {name}": text for name, text in other.numbers.items()}
            entries[number] = replace(own, text=f"{own.text} [{other.text}]", numbers=numbers)
    return tuple(entries)


def _published(value: PublishedValue) -> Entry:
    return _number(
        value.top1, value.std, f"{value.source}, best epoch on the test set" if value.epoch == "best" else ""
    )


def _number(top1: float, std: float | None, note: str = "") -> Entry:
    numbers = {"top-1 %": fixed(top1)} | ({"sd": fixed(std)} if std else {})
    return Entry(" ± ".join(numbers.values()), numbers, notes=(note,) if note else ())


def _under(published: Published, protocol: str, frame: pd.DataFrame) -> Table:
    """Values of many sources under one protocol; where they disagree, the one that most print."""
    accuracy = load_protocol(protocol).accuracy
    pairs = _ordered(frame)
    rows = [
        (*words("", role), *(_number(accuracy[network], None) for network in networks))
        for role, networks in zip(_NETWORKS, _networks(pairs), strict=True)
    ]
    rows += _methods(published, frame, pairs)
    return Table(
        f"Published under {protocol}",
        _heads(pairs, 2),
        tuple(rows),
        (
            f"top-1 on the test set of {published.dataset} in %, ± standard deviation where a source prints one",
            "where sources disagree, the value is shown that most of them print, and the others in a note",
            f"sources: {_titles(published, frame)}",
            NOT_OURS,
        ),
        num_labels=2,
        grouped=True,
    )


def _apart(published: Published, source: str, frame: pd.DataFrame) -> Table:
    """A source's values that cannot be compared, with its own networks."""
    pairs = _ordered(frame)
    firsts = frame.drop_duplicates("pair").set_index("pair")
    rows = [
        (*words("", role), *(_number(firsts[column][pair], None) for pair in pairs))
        for role, column in zip(_NETWORKS, ("teacher_top1", "student_top1"), strict=True)
    ]
    reasons = list(dict.fromkeys(frame["differs"]))
    return Table(
        f"Published by {source}, not comparable",
        _heads(pairs, 2),
        (*rows, *_methods(published, frame, pairs, reasons=len(reasons) > 1)),
        (
            f"{source}: {published.sources[source].title}",
            *([f"not comparable: {reasons[0]}"] if len(reasons) == 1 else []),
            NOT_OURS,
        ),
        num_labels=2,
        grouped=True,
    )


def _methods(
    published: Published, frame: pd.DataFrame, pairs: Sequence[str], *, reasons: bool = False
) -> list[tuple[Entry, ...]]:
    """Rows of methods by family, in the order of years."""
    methods = [published.methods[name] for name in dict.fromkeys(frame["method"])]
    methods.sort(key=lambda method: (place(method.family, FAMILIES), method.year or 9999))
    values = dict(iter(frame.groupby(["method", "pair"])))
    rows: list[tuple[Entry, ...]] = []
    before = None
    for method in methods:
        entries = [
            _one(values[method.name, pair], reasons=reasons) if (method.name, pair) in values else Entry(MISSING)
            for pair in pairs
        ]
        family = method.family or "other"
        rows.append((*words(family if family != before else "", method.label), *entries))
        before = family
    return rows


def _one(values: pd.DataFrame, *, reasons: bool) -> Entry:
    """The value that most sources print; the others, and why it cannot be compared, in a note."""
    order = values["also_in"].map(len).sort_values(ascending=False, kind="stable").index
    first, others = values.loc[order[0]], values.loc[order[1:]]
    notes = [str(first["differs"])] if reasons and first["differs"] else []
    if len(others):
        told = (f"{fixed(v)} ({source})" for v, source in zip(others["top1"], others["source"], strict=True))
        notes.append(f"{first['source']}; also {', '.join(told)}")
    return _number(float(first["top1"]), None if math.isnan(first["std"]) else float(first["std"]), "; ".join(notes))


def _ordered(frame: pd.DataFrame) -> list[str]:
    usual = list(map(str, usual_pairs()))
    found = list(dict.fromkeys(frame["pair"]))
    return sorted(found, key=lambda pair: place(pair, usual))


def _heads(pairs: Sequence[str], num_labels: int = 1) -> tuple[tuple[str, ...], ...]:
    blank = ("",) * (num_labels - 1)
    return tuple(
        (*blank, role, *networks) for role, networks in zip(("teacher", "student"), _networks(pairs), strict=True)
    )


def _networks(pairs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The teachers and the students of pairs."""
    parsed = [Pair.parse(pair) for pair in pairs]
    return [str(pair.teacher) for pair in parsed], [pair.student for pair in parsed]


def _titles(published: Published, frame: pd.DataFrame) -> str:
    return "; ".join(f"{key}: {published.sources[key].title}" for key in dict.fromkeys(frame["source"]))


def _row(frame: pd.DataFrame, name: str) -> str:
    spelled = {str(row).lower(): str(row) for row in frame.index}
    if name.lower() not in spelled:
        raise UserError(f"no row {name!r} in the printed table: there are {', '.join(map(str, frame.index))}")
    return spelled[name.lower()]


def _entry(values: Mapping[str, float], row: str, base: str, marked: Mapping[str, Mark]) -> Entry:
    value = values[row]
    if math.isnan(value):
        return Entry("NA")
    entry = replace(_number(value, None), mark=marked.get(row, ""))
    compared = row not in {base, *_NETWORKS} and not math.isnan(values[base])
    return with_difference(entry, value - values[base]) if compared else entry


def _ranked(values: Mapping[str, float], marks: Marks) -> dict[str, Mark]:
    """Best and second of printed values; equal ones share their mark."""
    if marks == "none":
        return {}
    order = sorted({value for value in values.values() if not math.isnan(value)}, reverse=True)
    names: tuple[Mark, ...] = ("best", "second")
    return {
        row: mark for mark, best in zip(names, order, strict=False) for row, value in values.items() if value == best
    }
