"""Read published values: kdbench's, and those that users' methods have in the TOML files beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import pandas as pd

from kdbench.analysis.published.files import (
    PublishedEpoch,
    PublishedMethod,
    Source,
    datasets,
    parse_printed,
    read_methods,
    read_networks,
    read_sources,
    read_values,
)
from kdbench.errors import UserError
from kdbench.experiment.beside_code import METHOD, own_files
from kdbench.experiment.pairs import Pair
from kdbench.experiment.protocol import load_protocol, protocol_names
from kdbench.experiment.toml_tables import read_table
from kdbench.utils.names import find_name, squeeze
from kdbench.utils.reading import Missing, Unreadable, read_toml
from kdbench.utils.values import number, shown, text, whole_number


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """An entry of ``[[published]]``; accuracies in percent. See ``results/published/README.md``."""

    dataset: str
    pair: str
    top1: float
    teacher_top1: float
    student_top1: float
    source: str
    std: float | None = None
    n: int | None = None
    protocol: str = ""
    epoch: PublishedEpoch = "unknown"
    differs: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        _checked("top1", lambda: number(self.top1, 0, 100))
        _checked("teacher_top1", lambda: number(self.teacher_top1, 0, 100))
        _checked("student_top1", lambda: number(self.student_top1, 0, 100))
        _checked("source", lambda: text(self.source))
        _checked("std", lambda: self.std is None or number(self.std, 0))
        _checked("n", lambda: self.n is None or whole_number(self.n, 1))
        if self.protocol and self.differs:
            raise ValueError("protocol and differs: name the protocol whose rules it follows, or why there is none")


@final
@dataclass(frozen=True, slots=True)
class Files:
    """The content of kdbench's files and of users'."""

    methods: dict[str, PublishedMethod] = field(default_factory=read_methods)
    sources: dict[str, Source] = field(default_factory=read_sources)
    aliases: dict[str, str] = field(default_factory=dict)
    """Published names of users' methods."""
    problems: list[str] = field(default_factory=list)
    """Files of users that cannot be used, each with the reason."""
    _rows: list[dict[str, Any]] = field(default_factory=list)
    """Values of users, with the columns of kdbench's files and ``dataset``."""

    @property
    def datasets(self) -> list[str]:
        """The data sets with values."""
        return sorted({*datasets(), *(row["dataset"] for row in self._rows)})

    def values(self, dataset: str) -> pd.DataFrame:
        """Return all values of a data set."""
        known = datasets()
        frame = read_values(dataset) if dataset in known else read_values(known[0]).iloc[:0]
        rows = [row for row in self._rows if row["dataset"] == dataset]
        if not rows:
            return frame
        return pd.DataFrame([*frame.to_dict("records"), *rows], columns=frame.columns).astype(frame.dtypes)

    def add(self, method: str, file: Path) -> None:
        """Add what the file beside a user's method says.

        Raises
        ------
        UserError
            An entry cannot be used: nothing is added then.
        Unreadable
            The file is no TOML.
        """
        content = read_toml(file)
        alias, tables = content.get("published_as"), content.get("published", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise UserError(f"published = {shown(tables)} must be tables [[published]]")
        if alias is not None and not isinstance(alias, str):
            raise UserError(f"published_as = {shown(alias)} must be a text")
        if alias is None and not tables:
            return
        name = _published_name(method, alias, self.methods)
        values = [_resolved(read_table(_Value, each, f"[[published]] {n}")) for n, each in enumerate(tables, 1)]
        self.sources.update(_merged(values, name, self.sources))
        self.aliases[method] = name
        if name not in self.methods:
            self.methods[name] = PublishedMethod(name=name, label=name, family="", year=None, paper="", kdbench="")
        self._rows.extend(_row(name, value) for value in values)


def read_files() -> Files:
    """Read kdbench's files and those beside users' methods; one that cannot be used is left out, and named."""
    files = Files()
    for method, file in sorted(own_files(METHOD).items()):
        try:
            files.add(method, file)
        except Missing:
            continue
        except Unreadable as error:
            files.problems.append(f"{file} is left out: it {error}")
        except UserError as error:
            files.problems.append(f"{file} is left out: {error}")
    return files


def _published_name(method: str, alias: str | None, methods: Mapping[str, PublishedMethod]) -> str:
    """Return the published name of a user's method: that which its file names, else its own."""
    labels = {spelling: each.name for each in methods.values() for spelling in (each.label, each.name)}
    if alias is not None:
        remedy = "results/published/methods.csv lists all; values of another method need no published_as"
        return alias if alias in methods else labels[find_name("published method", alias, labels, remedy)]
    if squeeze(method) in map(squeeze, labels):
        known = next(name for label, name in labels.items() if squeeze(label) == squeeze(method))
        raise UserError(f"{known} has published values: add published_as = {known!r}, or give the method another name")
    return method


def _resolved(value: _Value) -> _Value:
    """Return a value with the usual spelling of its names."""
    protocols = {name: load_protocol(name).dataset for name in protocol_names()}
    known = sorted({*datasets(), *protocols.values()})
    dataset = find_name("data set", value.dataset, known, f"the data sets are {', '.join(known)}")
    if value.protocol and protocols.get(value.protocol) != dataset:
        fitting = " or ".join(name for name, each in protocols.items() if each == dataset)
        remedy = f"name {fitting}, or say in differs why there is none" if fitting else "say in differs why"
        raise UserError(f"protocol = {value.protocol!r} is none of {dataset}: {remedy}")
    try:
        pair = parse_printed(value.pair, read_networks(dataset))
    except UserError:
        pair = Pair.parse(value.pair)  # of networks that kdbench does not have
    differs = value.differs or ("" if value.protocol else "no protocol is named for it")
    return replace(value, dataset=dataset, pair=str(pair), source=" ".join(value.source.split()), differs=differs)


def _merged(values: Iterable[_Value], method: str, sources: Mapping[str, Source]) -> dict[str, Source]:
    """Return the sources of values of a method; UserError where one has two protocols or two epochs."""
    merged: dict[str, Source] = {}
    for value in values:
        source = Source(
            key=value.source,
            title=value.source,
            protocols=(value.protocol,) if value.protocol else (),
            epoch=value.epoch,
            own_methods=(),
            differs=value.differs,
        )
        other = merged.get(source.key) or sources.get(source.key) or source
        protocol = next((name for name in other.protocols if load_protocol(name).dataset == value.dataset), "")
        if (protocol, other.epoch) != (value.protocol, value.epoch):
            raise UserError(f"source = {source.key!r} has two protocols or epochs: tell its parts apart, as by tables")
        merged[source.key] = replace(other, own_methods=tuple(dict.fromkeys((*other.own_methods, method))))
    return merged


def _row(method: str, value: _Value) -> dict[str, Any]:
    pair = Pair.parse(value.pair)
    return {
        "dataset": value.dataset,
        "teacher": str(pair.teacher),
        "student": pair.student,
        "method": method,
        "top1": value.top1,
        "std": math.nan if value.std is None else value.std,
        "std_source": "" if value.std is None else value.source,
        "n": value.n,
        "teacher_top1": value.teacher_top1,
        "student_top1": value.student_top1,
        "source": value.source,
        "also_in": (),
        "disagrees": (),
        "differs": value.differs,
        "note": value.note,
    }


def _checked(name: str, check: Callable[[], object]) -> None:
    """Run a check of a value; its ValueError begins with the value's name then."""
    try:
        check()
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
