"""Published accuracies of papers and repositories, to be shown beside our results.

Training rules differ from table to table, and most sources repeat values of others. So published values are never
ranked or tested with our results. Only values of the same pair and method under the same protocol are comparable; each
value says whether it is: see `Published.values_for`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import pandas as pd

from kdbench.analysis.published.files import (
    METHODS_FILE,
    PublishedEpoch,
    PublishedMethod,
    PublishedNetwork,
    Source,
    parse_printed,
    read_contested,
    read_networks,
)
from kdbench.analysis.published.own import read_files
from kdbench.analysis.published.value import PublishedValue, value_of
from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair
from kdbench.experiment.protocol import Protocol, load_protocol, protocol_names
from kdbench.utils.names import find_name

__all__ = ["SAME", "Published", "PublishedValue", "datasets", "load_published"]

_NETWORKS = {"Teacher": "teacher_top1", "Student": "student_top1"}
"""Rows of printed tables for the networks without distillation, and the columns with their accuracies."""
SAME = 0.05
"""Percentage points by which accuracies of equal weights may differ in print: torchvision's ResNet18 has 69.75 or
69.76, its ResNet50 76.13 or 76.16."""


@final
@dataclass(frozen=True, eq=False)
class Published:
    """Published values of one data set, or a selection of them.

    ``frame`` has the columns of the file (see ``results/published/README.md``) and

    - ``pair``: teacher>student
    - ``kdbench``: name of the method in kdbench, empty for none
    - ``epoch``: last, best or unknown
    - ``protocol``: protocol whose results are comparable with the value, empty for none
    - ``network_note``: what must be known of the networks, empty for nothing
    - ``contested``: why others doubt the value, beginning with this word, empty if none does

    ``differs`` gives the reason wherever ``protocol`` is empty.
    """

    dataset: str
    """Name of the data set."""
    frame: pd.DataFrame
    """A row for each value."""
    sources: dict[str, Source]
    """All sources by key."""
    methods: dict[str, PublishedMethod]
    """All published methods by published name."""
    networks: dict[str, PublishedNetwork]
    """Of this data set, by kdbench's names: those of which something must be known."""
    aliases: dict[str, str]
    """Published names of users' methods."""
    problems: list[str]
    """Files of users that cannot be used, each with the reason."""

    def select(
        self,
        methods: Iterable[str] | None = None,
        sources: Iterable[str] | None = None,
        pairs: Iterable[str] | None = None,
    ) -> Published:
        """Select the values of some methods, sources and pairs; None stands for all.

        A value belongs to every source that prints it. Where sources disagree, all their values are kept.

        Parameters
        ----------
        methods
            Published names, labels, or kdbench's names.
        sources
            Keys of sources.
        pairs
            ``teacher>student``; a pair without published values selects nothing.

        Raises
        ------
        UserError
            A name is unknown; the message lists the closest ones.
        """
        frame = self.frame
        if methods is not None:
            frame = frame[frame["method"].isin([self.method_name(name) for name in methods])]
        if sources is not None:
            selected = {self._source_key(key) for key in sources}
            frame = frame[[not selected.isdisjoint(keys) for keys in _printed_in(frame)]]
        if pairs is not None:
            frame = frame[frame["pair"].isin([self._pair(pair) for pair in pairs])]
        return dataclasses.replace(self, frame=frame.reset_index(drop=True))

    def is_printed(self, source: str) -> bool:
        """Return whether a source's values are stored as one printed table of this data set."""
        table = self.sources[self._source_key(source)].table
        return table is not None and table.dataset == self.dataset

    def printed(self, source: str) -> pd.DataFrame:
        """Return a source's table as it was printed: labels as rows, pairs as columns, NaN for a missing value.

        Methods and pairs without any value in this selection are left out.

        Raises
        ------
        UserError
            The source's values are not stored as one printed table of this data set.
        """
        key = self._source_key(source)
        table = self.sources[key].table
        if table is None or not self.is_printed(key):
            stored = [s.key for s in self.sources.values() if s.table and s.table.dataset == self.dataset]
            raise UserError(
                f"{key} is not stored as a printed table of {self.dataset}; stored are: {', '.join(stored) or 'none'}"
            )
        rows = self.select(sources=[key]).frame
        assert not rows.duplicated(["pair", "method"]).any(), f"{key} prints two values for one pair and method"
        networks = rows.groupby("pair")[list(_NETWORKS.values())].first().T
        methods = rows.pivot(index="method", columns="pair", values="top1")
        names = {label: _NETWORKS.get(label) or table.names.get(label, label) for label in table.rows}
        labels = [label for label, name in names.items() if name in networks.index or name in methods.index]
        frame = pd.concat([networks, methods]).loc[[names[label] for label in labels]].set_axis(labels)
        return frame[[pair for pair in table.pairs if pair in frame]]

    def values_for(self, pair: str, method: str, protocol: str) -> tuple[PublishedValue, ...]:
        """Return the published values of a pair and one of kdbench's methods.

        A value is comparable if its source has the protocol's training rules, prints the protocol's accuracies for
        both networks, and uses the settings that kdbench has by default or in its recipe for the pair. The reported
        epoch does not matter; the best accuracy on the test set lies about 0.3 above that of the last epoch.

        For the protocol's student-only method, only the student is compared. The accuracies that sources print for the
        student next to their pairs come first.

        Parameters
        ----------
        pair
            ``teacher>student`` in kdbench's spelling.
        method
            kdbench's name of a method.
        protocol
            Name of the protocol of the result, without overrides.

        Returns
        -------
        tuple[PublishedValue, ...]
            Comparable values first; empty without published values.
        """
        rules = load_protocol(protocol)
        is_alias = method in self.aliases
        of_method = self.frame["method"] == self.aliases[method] if is_alias else self.frame["kdbench"] == method
        if method != rules.baseline:
            rows = self.frame[of_method & (self.frame["pair"] == pair)]
            values = [value_of(row, rules.name) for row in rows.to_dict("records")]
        else:
            of_student = self.frame["student"] == Pair.parse(pair).student
            rows = self.frame[of_student & of_method]
            values = self._student_values(
                self.frame[of_student & ~of_method & (self.frame["protocol"] == rules.name)], method
            )
            values += [value_of(row, rules.name) for row in rows.to_dict("records")]
        return tuple(sorted(values, key=lambda value: not value.comparable))

    def method_name(self, name: str) -> str:
        """Find the published name of a method by its published name, label or name in kdbench, in any spelling.

        Raises
        ------
        UserError
            The method is unknown; the message lists the closest ones.
        """
        exact = {method.lower(): method for method in self.methods}
        if (lower := name.strip().lower()) in exact:
            return exact[lower]
        # Among names that differ only in punctuation, such as a final ++, a loose spelling means the shortest name.
        methods = sorted(self.methods.values(), key=lambda method: len(method.name), reverse=True)
        spelled = {method.label: method.name for method in methods}
        spelled |= {method.name: method.name for method in methods}
        spelled |= {method.kdbench: method.name for method in methods if method.kdbench} | self.aliases
        remedy = f"results/published/{METHODS_FILE} lists all {len(methods)}"
        return spelled[find_name("published method", name, spelled, remedy)]

    def _source_key(self, key: str) -> str:
        return find_name("source", key, self.sources, f"the sources are {', '.join(self.sources)}")

    def _pair(self, pair: str) -> str:
        with contextlib.suppress(UserError):
            return str(parse_printed(pair, self.networks))
        pairs = sorted(set(self.frame["pair"]))
        return find_name("pair", pair, pairs, f"published values of {self.dataset} exist for {', '.join(pairs)}")

    def _student_values(self, frame: pd.DataFrame, method: str) -> list[PublishedValue]:
        """Return the distinct accuracies of a student that sources print next to pairs, each with its first source."""
        name = self.method_name(method)
        rows = frame.drop_duplicates("student_top1").to_dict("records")
        known = [self.networks.get(row["student"], PublishedNetwork()) for row in rows]
        return [
            PublishedValue(
                method=name,
                top1=row["student_top1"],
                std=None,
                n=None,
                epoch=_epoch(name, [row["source"]], self.sources),
                source=row["source"],
                also_in=(),
                differs=network.alone,
                note="; ".join(filter(None, (f"printed next to {row['pair']}", network.note))),
            )
            for row, network in zip(rows, known, strict=True)
        ]


def load_published(dataset: str) -> Published:
    """Read the published values of a data set, whose name may have any spelling.

    Raises
    ------
    UserError
        The data set has no published values.
    """
    files = read_files()
    names, sources = files.datasets, files.sources
    name = find_name("data set", dataset, names, f"the data sets with published values are {' and '.join(names)}")
    protocols = {p: rules for p in protocol_names() if (rules := load_protocol(p)).dataset == name}
    frame, networks = files.values(name), read_networks(name)
    rows = frame.to_dict("records")
    comparable = [next((p for p in sources[row["source"]].protocols if p in protocols), "") for row in rows]
    differs = [
        _differs(row, sources[row["source"]], protocols.get(protocol))
        for row, protocol in zip(rows, comparable, strict=True)
    ]
    contested = {(each.pair, each.method, each.top1): f"contested: {each.why}" for each in read_contested(name)}
    frame = frame.assign(
        pair=frame["teacher"] + ">" + frame["student"],
        kdbench=[files.methods[method].kdbench for method in frame["method"]],
        epoch=[_epoch(m, keys, sources) for m, keys in zip(frame["method"], _printed_in(frame), strict=True)],
        protocol=["" if why else protocol for why, protocol in zip(differs, comparable, strict=True)],
        differs=differs,
        network_note=[
            "; ".join(n.note for n in (networks.get(row["teacher"]), networks.get(row["student"])) if n and n.note)
            for row in rows
        ],
        contested=[
            contested.get((f"{row['teacher']}>{row['student']}", row["method"], row["top1"]), "") for row in rows
        ],
    )
    return Published(name, frame, sources, files.methods, networks, files.aliases, files.problems)


def datasets() -> list[str]:
    """List the data sets with published values, those of users' files among them."""
    return read_files().datasets


def _differs(row: dict[Any, Any], source: Source, protocol: Protocol | None) -> str:
    """Explain why a value is not comparable with results under its source's protocol; empty if it is."""
    if row["differs"]:
        return str(row["differs"])
    if protocol is None:
        return source.differs or f"{source.key} is comparable on another data set only"
    networks = {role: (row[role], row[f"{role}_top1"]) for role in ("teacher", "student")}
    return "; ".join(
        f"{role} {name} has {top1:.2f} % in the source, {protocol.accuracy.get(name, 'no value')} in {protocol.name}"
        for role, (name, top1) in networks.items()
        if not abs(top1 - protocol.accuracy.get(name, math.nan)) < SAME
    )


def _epoch(method: str, keys: Sequence[str], sources: dict[str, Source]) -> PublishedEpoch:
    """Return the epoch that the source which ran the method reports; the other sources repeat its value."""
    return next((sources[key].epoch for key in keys if method in sources[key].own_methods), "unknown")


def _printed_in(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return all sources of each row, the one that the value is attributed to first."""
    return [(first, *others) for first, others in zip(frame["source"], frame["also_in"], strict=True)]
