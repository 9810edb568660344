"""Select comparisons, and rows and pairs of each, by the names that users type.

A filter narrows the comparisons that have what it names, and leaves the others out. It fails only if no comparison has
it, so that a few records under other rules do not stand in its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from kdbench.analysis.comparison import (
    COLUMN,
    FAMILIES,
    MEASURES,
    ComparedPair,
    Comparison,
    Reported,
    Row,
    settings_text,
)
from kdbench.analysis.records import Records
from kdbench.analysis.splitting import split
from kdbench.errors import UserError
from kdbench.experiment.pairs import JOIN, Pair, TeacherSpec, named_pairs
from kdbench.utils.names import squeeze, unknown_name
from kdbench.utils.reading import parse_word
from kdbench.utils.text import counted


def with_values(records: Records, reported: Reported, filters: Filters) -> tuple[Records, list[str]]:
    """Leave out the records that do not hold what is reported, with a remark that counts the selected ones.

    Raises
    ------
    UserError
        No selected record holds it, or nothing is selected.
    """
    column = COLUMN[reported]
    lacking = records.frame[column].isna() if column in records.frame else pd.Series(dtype=bool)
    if not lacking.any():
        return records, []
    selected, _ = select(split(records), filters)
    cells = {cell for each in selected for result in each.results.values() for cell in result.frame["cell"]}
    missing = lacking[records.frame["cell"].isin(cells)]
    number = counted(int(missing.sum()), "record")
    if reported == "validation":
        without = f"{number} of cells that held no images out, which [evaluation] validation in a protocol decides"
        remedy = "leave --epoch out to compare the last epochs"
    else:
        without = f"{number} without {MEASURES[reported]}, which earlier versions lack"
        remedy = "leave --measure out to compare by top-1"
    if missing.all():
        raise UserError(f"there is nothing to compare: {without}; {remedy}")
    frame = records.frame.loc[~lacking].reset_index(drop=True)
    return replace(records, frame=frame), [f"left out: {without}"] if missing.any() else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Names by which users select; empty ones select everything."""

    protocols: Sequence[str] = ()
    """Names of protocols, or titles of comparisons."""
    rules: Sequence[str] = ()
    """``KEY=VALUE`` of rules, of ``data`` (its fingerprint) or of ``epoch_rule``; several values of a key are
    alternatives."""
    methods: Sequence[str] = ()
    """Labels of rows, or methods, which stand for all their rows where no row has that label."""
    families: Sequence[str] = ()
    """Families of methods to keep."""
    without_families: Sequence[str] = ()
    """Families of methods to leave out."""
    pairs: Sequence[str] = ()
    """Names of pairs, pairs of networks, or sets of pairs."""
    baselines: Sequence[str] = ()
    """Rows that differences refer to; a comparison that has none of them is left out."""


@dataclass(frozen=True, slots=True)
class _Filter:
    """Alternatives of one kind, and what each matches in a comparison."""

    kind: str
    names: Sequence[str]
    match: Callable[[Comparison, str], Sequence[Any]]
    known: Callable[[Comparison], Sequence[str]]
    """All names of this kind in a comparison."""
    leaves_out: bool = False
    """Whether rows of these names are left out, so that no comparison need have any."""

    def check(self, comparisons: Sequence[Comparison]) -> None:
        for name in self.names:
            is_family = self.kind == "family" and name.lower() in FAMILIES
            if any(self.match(comparison, name) for comparison in comparisons) or (is_family and self.leaves_out):
                continue
            known = list(dict.fromkeys(text for comparison in comparisons for text in self.known(comparison)))
            if self.kind == "protocol":
                raise UserError(f"no records under {name}: there are records under {'; '.join(known)}")
            if self.kind == "pair" and name in named_pairs():
                raise UserError(f"no record is of a pair of {name}: the pairs are {', '.join(known)}")
            if is_family:
                raise UserError(f"no record is of a method of {name}: the families are {', '.join(known)}")
            kinds = "families" if self.kind == "family" else f"{self.kind}s"
            raise unknown_name(self.kind, name, known, f"the {kinds} are {', '.join(known)}")

    def missing(self, comparison: Comparison) -> list[str]:
        """Return the names that match nothing in a comparison."""
        return [name for name in self.names if not self.match(comparison, name)]


def select(comparisons: Sequence[Comparison], filters: Filters) -> tuple[list[Comparison], list[str]]:
    """Narrow comparisons; the student-only baseline is always kept.

    Returns
    -------
    list of Comparison
        Those that have what the filters name, without their other rows and pairs.
    list of str
        Remarks in one line each: what was left out, and what the others lack.

    Raises
    ------
    UserError
        No comparison has a protocol, rule, method or pair; the message lists what there is. Or no row is left.
    """
    selected, left_out = list(comparisons), []
    lacking: dict[str, list[str]] = {}
    for part in _parts(filters):
        part.check(selected)
        if part.leaves_out:
            continue
        missing = {comparison.title: part.missing(comparison) for comparison in selected}
        without = [title for title, names in missing.items() if len(names) == len(part.names)]
        selected = [comparison for comparison in selected if comparison.title not in without]
        if without:
            left_out.append(f"{'; '.join(without)} (no {part.kind} {' or '.join(part.names)})")
        for title, names in missing.items():
            if names:
                lacking.setdefault(title, []).append(f"{part.kind} {', '.join(names)}")
    remarks = [f"left out: {'; '.join(left_out)}"] if left_out else []
    titles = [comparison.title for comparison in selected if comparison.title in lacking]
    if titles:
        remarks.append("; ".join(f"{title} has no {' and no '.join(lacking[title])}" for title in titles))
    if selected and not any(_named_rows(comparison, filters) for comparison in selected):
        raise UserError("no row is left: no method is in all that --methods, --families and --without-families select")
    remarks.extend(_incomplete_sets(selected, filters.pairs))
    return [_narrowed(comparison, filters) for comparison in selected], remarks


def _parts(filters: Filters) -> Iterator[_Filter]:
    if filters.protocols:
        yield _Filter("protocol", filters.protocols, _protocols, lambda c: [c.rules["name"], c.title])
    by_key: dict[str, list[str]] = {}
    for word in filters.rules:
        key, equals, text = word.partition("=")
        if not (key and equals and text):
            raise UserError(f"--rules takes KEY=VALUE, such as epochs=2, not {word!r}")
        by_key.setdefault(key, []).append(word)
    for key, words in by_key.items():
        yield _Filter("rule", words, _rules, partial(_rule_words, key))
    if filters.methods:
        yield _Filter("row", filters.methods, Comparison.matching, lambda c: [row.label for row in c.rows])
    if filters.families:
        yield _Filter("family", filters.families, _of_family, _families)
    if filters.without_families:
        yield _Filter("family", filters.without_families, _of_family, _families, leaves_out=True)
    if filters.pairs:
        yield _Filter("pair", filters.pairs, _pairs, _pair_words)
    if filters.baselines:
        yield _Filter("row", filters.baselines, _only_row, lambda c: [row.label for row in c.rows])


def _protocols(comparison: Comparison, name: str) -> list[str]:
    protocol = comparison.rules["name"]
    return [protocol] if name == comparison.title or squeeze(name) == squeeze(protocol) else []


def _rules(comparison: Comparison, word: str) -> list[str]:
    """Return the rule that a word names; a fingerprint may be cut short, as titles have it."""
    key, _, text = word.partition("=")
    if key not in comparison.rules:
        return []
    value = comparison.rules[key]
    alike = str(value).startswith(text) if key == "data" else str(value) == text or value == parse_word(text)
    return [key] if alike else []


def _rule_words(key: str, comparison: Comparison) -> list[str]:
    """Return a rule as users type it; the keys of all rules if there is none of this key."""
    return [settings_text({key: comparison.rules[key]})] if key in comparison.rules else list(comparison.rules)


def _only_row(comparison: Comparison, name: str) -> list[Row]:
    rows = comparison.matching(name)
    return rows if len(rows) == 1 else []


def _of_family(comparison: Comparison, name: str) -> list[Row]:
    return [row for row in comparison.rows if row.family == name.lower()]


def _families(comparison: Comparison) -> list[str]:
    return [row.family for row in comparison.rows]


def _pair_words(comparison: Comparison) -> list[str]:
    """Return the pairs of a comparison, and the sets of pairs that have some of them."""
    sets = [name for name in named_pairs() if _pairs(comparison, name)]
    return [*(pair.name for pair in comparison.pairs), *sets]


def _pairs(comparison: Comparison, text: str) -> list[ComparedPair]:
    """Return the pairs that a text names: by the name that tables print, by its networks, or as a set of pairs."""
    sets = named_pairs()
    if text in sets:
        return [match for pair in sets[text].pairs for match in _pairs(comparison, str(pair))]
    if named := [pair for pair in comparison.pairs if squeeze(pair.name) == squeeze(text)]:
        return named
    try:
        wanted = Pair.parse(text)
    except UserError:
        return []
    return [
        pair
        for pair in comparison.pairs
        if squeeze(pair.student) == squeeze(wanted.student) and _is_teacher(pair, wanted.teacher)
    ]


def _is_teacher(pair: ComparedPair, wanted: TeacherSpec) -> bool:
    """Return whether a teacher is the one that is meant, or its members are, in any order."""
    if not pair.teacher:
        return False
    hashes = [part.partition(":")[2] for part in pair.teacher_id.split(JOIN)]
    names = [(squeeze(member.network), member.epochs) for member in TeacherSpec.parse(pair.teacher).members]
    members = sorted((*name, digits) for name, digits in zip(names, hashes, strict=False))
    specs = sorted((squeeze(spec.network), spec.epochs, spec.hash) for spec in wanted.members)
    if [network for network, *_ in members] != [network for network, *_ in specs]:
        return False
    pairs = list(zip(members, specs, strict=True))
    if any(epochs and epochs != trained for (_, trained, _), (_, epochs, _) in pairs):
        return False
    if len(members) == 1 and pair.teacher_weights.startswith(wanted.hash):
        return True
    return all(digits.startswith(begin) for (*_, digits), (*_, begin) in pairs)


def _incomplete_sets(comparisons: Sequence[Comparison], names: Sequence[str]) -> Iterator[str]:
    """Yield a remark on each set of pairs of which no comparison has some."""
    sets = named_pairs()
    for name in names:
        pairs = [str(pair) for pair in sets[name].pairs] if name in sets else []
        if missing := [pair for pair in pairs if not any(_pairs(comparison, pair) for comparison in comparisons)]:
            yield f"no record is of these pairs of {name}: {', '.join(missing)}"


def _named_rows(comparison: Comparison, filters: Filters) -> tuple[Row, ...]:
    """Return the rows that methods and families select."""
    rows = comparison.rows
    for names, match, keep in (
        (filters.methods, Comparison.matching, True),
        (filters.families, _of_family, True),
        (filters.without_families, _of_family, False),
    ):
        if names:
            matches = {row for name in names for row in match(comparison, name)}
            rows = tuple(row for row in rows if (row in matches) == keep)
    return rows


def _narrowed(comparison: Comparison, filters: Filters) -> Comparison:
    """Drop the rows and pairs that were not named; the student-only baseline is kept, and those that are named."""
    pairs = comparison.pairs
    kept = {comparison.student_only, *(row for name in filters.baselines for row in comparison.matching(name))}
    kept.update(_named_rows(comparison, filters))
    rows = tuple(row for row in comparison.rows if row in kept)
    if filters.pairs:
        selected = {pair for text in filters.pairs for pair in _pairs(comparison, text)}
        pairs = tuple(pair for pair in pairs if pair in selected)
    results = {key: result for key, result in comparison.results.items() if key[0] in rows and key[1] in pairs}
    methods = {row.method for row in rows}
    searches = tuple(each for each in comparison.searches if each.study.method in methods)
    return replace(comparison, rows=rows, pairs=pairs, results=results, searches=searches)
