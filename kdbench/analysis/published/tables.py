"""Tables of published values, alone or next to our results, and never ranked or tested with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from kdbench.analysis.comparison import FAMILIES, ComparedPair, Comparison, Row, position
from kdbench.analysis.published.values import SAME, Published, PublishedValue
from kdbench.analysis.tables.entries import fixed
from kdbench.analysis.tables.table import MISSING, Entry, Table, words
from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair, usual_pairs
from kdbench.experiment.protocol import load_protocol

NETWORKS = {"Teacher": "teacher_top1", "Student": "student_top1"}
"""Rows of the networks without distillation, and the columns with their accuracies."""
NOT_OURS = "published values are copied from their sources; they are never ranked or tested with ours"
_GROUPS = (
    "the protocol computes batch norms over groups of {} images; published runs over the images of a GPU, whose number "
    "most sources do not state"
)
_BEST = "best epoch on the test set"


def published_tables(published: Published) -> list[Table]:
    """Make tables of all values: one table per protocol, and one per source for values that are not comparable."""
    frame = published.frame
    comparable, others = frame[frame["protocol"] != ""], frame[frame["protocol"] == ""]
    tables = [_protocol_table(published, str(name), group) for name, group in comparable.groupby("protocol")]
    return tables + [_source_table(published, str(key), group) for key, group in others.groupby("source", sort=False)]


def with_published(
    table: Table, comparison: Comparison, published: Published, *, beside: bool, others: bool = False
) -> Table:
    """Add the comparable published values of the same methods and pairs to our paper table.

    Parameters
    ----------
    table
        The comparison in the layout of papers, with its rows as ``keys``.
    beside
        Whether the values stand in brackets behind ours, or in rows of their own at the end.
    others
        Whether methods that have no results of ours get rows too.

    Raises
    ------
    UserError
        The published values are of another data set.
    """
    if published.dataset != comparison.rules["dataset"]:
        raise UserError(
            f"{comparison.title} trains on {comparison.rules['dataset']}: published values of {published.dataset} are "
            "not comparable with it"
        )
    if comparison.overrides:
        return replace(table, notes=(*table.notes, "no published values: no source uses these training rules"))
    values = _comparable_values(comparison, published)
    more = _values_of_others(comparison, published) if others and not beside else published.frame.iloc[:0]
    sources = ", ".join(dict.fromkeys([*(first.source for first, *_ in values.values()), *more["source"]]))
    where = "in brackets" if beside else "last rows"
    notes = (*table.notes, f"{where}: published under the same protocol (sources: {sources or 'none'}); {NOT_OURS}")
    if beside:
        lines = zip(table.keys, table.rows, strict=True)
        rows = tuple(
            _with_brackets(line, [values.get((row, pair), ()) for pair in comparison.pairs], table.num_labels)
            for row, line in lines
        )
        return replace(table, rows=rows, notes=notes)
    block: list[tuple[Entry, ...]] = []
    for row in dict.fromkeys(row for row, _ in values):
        row_values = [values.get((row, pair)) for pair in comparison.pairs]
        entries = [_published_entry(each) if each else Entry(MISSING) for each in row_values]
        block.append((*words("" if block else "published", row.label), *entries))
    pairs = [_networks_of(pair) for pair in comparison.pairs]
    for _, label, *cells in _method_rows(published, more, pairs, epochs=True):
        block.append((*words("" if block else "published"), label, *cells))
    return replace(table, rows=(*table.rows, *block), keys=(*table.keys, *(None for _ in block)), notes=notes)


def _networks_of(pair: ComparedPair) -> str:
    return f"{pair.teacher}>{pair.student}"


def _values_of_others(comparison: Comparison, published: Published) -> pd.DataFrame:
    """Return the comparable values on our pairs of methods that have no results of ours."""
    frame, ours = published.frame, {row.method for row in comparison.rows}
    is_ours = frame["kdbench"].isin(ours) | frame["method"].isin([published.aliases.get(name, "") for name in ours])
    is_comparable = frame["protocol"] == comparison.rules["name"]
    of_pairs = frame["pair"].isin(map(_networks_of, comparison.pairs))
    selected: pd.DataFrame = frame[is_comparable & ~is_ours & of_pairs]
    return selected


def _comparable_values(
    comparison: Comparison, published: Published
) -> dict[tuple[Row, ComparedPair], list[PublishedValue]]:
    """Return the comparable values of each row with default settings on each pair, if there are some."""
    found = {}
    for row in comparison.rows:
        for pair in comparison.pairs:
            values = published.values_for(_networks_of(pair), row.method, comparison.rules["name"])
            comparable = [value for value in values if value.comparable]
            if not (row.changed or row.epochs or row.tuning) and comparable:
                found[row, pair] = comparable
    return found


def _with_brackets(
    line: tuple[Entry, ...], values: Sequence[Sequence[PublishedValue]], num_labels: int
) -> tuple[Entry, ...]:
    """Add the published values of each pair to a line of a table, in brackets."""
    entries = list(line)
    for column, printed in enumerate(values, num_labels):
        if printed:
            ours, theirs = entries[column], _published_entry(printed)
            numbers = dict(ours.numbers) | {f"published {name}": text for name, text in theirs.numbers.items()}
            text, notes = f"{ours.text} [{theirs.text}]", (*ours.notes, *theirs.notes)
            entries[column] = replace(ours, text=text, numbers=numbers, notes=notes)
    return tuple(entries)


def _published_entry(values: Sequence[PublishedValue]) -> Entry:
    """Make an entry of the first of some values; a note holds the others."""
    first, *others = values
    best = f"{_BEST} ({first.source})" if first.epoch == "best" else ""
    also = _also(first.source, ((value.top1, value.source) for value in others if value.top1 != first.top1))
    return number_entry(first.top1, first.std, best, first.contested, also)


def _also(source: str, others: Iterable[tuple[float, str]]) -> str:
    """Say which source prints a value, and what others print; empty without others."""
    texts = [f"{fixed(top1)} ({other})" for top1, other in others]
    return f"printed by {source}; also {', '.join(texts)}" if texts else ""


def number_entry(top1: float, std: float | None, *notes: str) -> Entry:
    """Make an entry of a published accuracy, with its standard deviation and notes if there are some.

    An accuracy that is not known, nan, is a missing entry.
    """
    if math.isnan(top1):
        return Entry(MISSING)
    numbers = {"top-1 %": fixed(top1)} | ({"sd": fixed(std)} if std else {})
    return Entry(" ± ".join(numbers.values()), numbers, notes=tuple(filter(None, notes)))


def _protocol_table(published: Published, protocol: str, frame: pd.DataFrame) -> Table:
    """Make a table of the values under one protocol; of values that disagree, the one that most sources print."""
    rules = load_protocol(protocol)
    pairs = _ordered(frame)
    rows = [
        (*words("", role), *(_network_entry(rules.accuracy[network], frame, role, network) for network in networks))
        for role, networks in zip(NETWORKS, _networks(pairs), strict=True)
    ]
    group_size = rules.rules.schedule.group_size
    rows += _method_rows(published, frame, pairs)
    return Table(
        f"Published under {protocol}",
        heads(pairs, 2),
        tuple(rows),
        (
            f"top-1 on the test set of {published.dataset} in %, ± standard deviation where a source prints one",
            "if sources disagree: the value that most of them print; a footnote lists the others",
            *([_GROUPS.format(group_size)] if group_size else []),
            f"sources: {_titles(published, frame)}",
            NOT_OURS,
        ),
        num_labels=2,
        grouped=True,
    )


def _source_table(published: Published, source: str, frame: pd.DataFrame) -> Table:
    """Make a table of the values of one source that are not comparable, with the accuracies of its networks."""
    pairs = _ordered(frame)
    firsts = frame.drop_duplicates("pair").set_index("pair")
    rows = [
        (*words("", role), *(number_entry(firsts[column][pair], None) for pair in pairs))
        for role, column in NETWORKS.items()
    ]
    columns = list(NETWORKS.values())
    differences = frame[columns].to_numpy() - firsts.loc[frame["pair"], columns].to_numpy()
    others = (abs(differences) > SAME).any(axis=1)
    frame = frame.assign(
        networks=[
            f"of a teacher with {fixed(teacher)} % and a student with {fixed(student)} % without one" if other else ""
            for other, teacher, student in zip(others, *(frame[column] for column in columns), strict=True)
        ]
    )
    reasons = list(dict.fromkeys(frame["differs"]))
    return Table(
        f"Published by {source}, not comparable",
        heads(pairs, 2),
        (*rows, *_method_rows(published, frame, pairs, reasons=len(reasons) > 1)),
        (
            f"{source}: {published.sources[source].title}",
            *([f"not comparable: {reasons[0]}"] if len(reasons) == 1 else []),
            NOT_OURS,
        ),
        num_labels=2,
        grouped=True,
    )


def _method_rows(
    published: Published, frame: pd.DataFrame, pairs: Sequence[str], *, reasons: bool = False, epochs: bool = False
) -> list[tuple[Entry, ...]]:
    """Make a row for each method, by family and year."""
    methods = [published.methods[name] for name in dict.fromkeys(frame["method"])]
    methods.sort(key=lambda method: (position(method.family, FAMILIES), method.year or 9999))
    values = dict(iter(frame.groupby(["method", "pair"])))
    rows: list[tuple[Entry, ...]] = []
    previous_family = None
    for method in methods:
        entries = [
            _most_printed(values[method.name, pair], reasons=reasons, epochs=epochs)
            if (method.name, pair) in values
            else Entry(MISSING)
            for pair in pairs
        ]
        family = method.family or "other"
        rows.append((*words(family if family != previous_family else "", method.label), *entries))
        previous_family = family
    return rows


def _most_printed(values: pd.DataFrame, *, reasons: bool, epochs: bool) -> Entry:
    """Make an entry of the value that most sources print; notes hold what must be known of it, and the others."""
    order = values["also_in"].map(len).sort_values(ascending=False, kind="stable").index
    first, others = values.loc[order[0]], values.loc[order[1:]]
    columns = (*(["differs"] if reasons else []), "contested", "note", "network_note", "networks")
    notes = [str(first[column]) for column in columns if first.get(column)]
    notes += [_BEST] if epochs and first["epoch"] == "best" else []
    if not math.isnan(first["top5"]):
        notes.append(f"top-5: {fixed(first['top5'])} %")
    if also := _also(str(first["source"]), zip(others["top1"], others["source"], strict=True)):
        notes.append(also)
    entry = number_entry(float(first["top1"]), None if math.isnan(first["std"]) else float(first["std"]))
    return replace(entry, notes=tuple(notes))


def _network_entry(accuracy: float, frame: pd.DataFrame, role: str, network: str) -> Entry:
    """Make an entry of a network's accuracy under a protocol, with a note on what sources print where it is another."""
    printed = sorted(set(frame.loc[frame[role.lower()] == network, NETWORKS[role]]) | {accuracy})
    return number_entry(accuracy, None, f"printed as {' and '.join(map(fixed, printed))}" if len(printed) > 1 else "")


def _ordered(frame: pd.DataFrame) -> list[str]:
    usual = list(map(str, usual_pairs()))
    return sorted(dict.fromkeys(frame["pair"]), key=lambda pair: position(pair, usual))


def heads(pairs: Sequence[str], num_labels: int = 1) -> tuple[tuple[str, ...], ...]:
    """Return the head of a table whose columns are pairs: their teachers, and their students below."""
    blank = ("",) * (num_labels - 1)
    return tuple(
        (*blank, role, *networks) for role, networks in zip(("teacher", "student"), _networks(pairs), strict=True)
    )


def _networks(pairs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the teachers and the students of pairs."""
    parsed = [Pair.parse(pair) for pair in pairs]
    return [str(pair.teacher) for pair in parsed], [pair.student for pair in parsed]


def _titles(published: Published, frame: pd.DataFrame) -> str:
    return "; ".join(f"{key}: {published.sources[key].title}" for key in dict.fromkeys(frame["source"]))
