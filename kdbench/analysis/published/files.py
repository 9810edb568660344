"""Read the files of published values, networks, sources and methods; ``results/published/README.md`` explains them."""

from __future__ import annotations

import io
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal, get_args

import pandas as pd

from kdbench.experiment.pairs import Pair
from kdbench.models import parse_pair
from kdbench.utils.names import squeeze

PublishedEpoch = Literal["last", "best", "unknown"]
"""The epoch whose accuracy a source reports: the last one, or the best one on the test set."""
Family = Literal["logits", "features", "relations", "contrast", ""]

METHODS_FILE = "methods.csv"
_NUMBERS = ("top1", "top5", "std", "teacher_top1", "student_top1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedTable:
    """Order and labels of one printed table."""

    dataset: str
    pairs: tuple[str, ...]
    rows: tuple[str, ...]
    """Labels of methods, as printed."""
    names: dict[str, str]
    """Published names of the methods whose label differs from their name."""
    baseline: str
    """Row that the differences refer to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A paper, repository or note that prints values."""

    key: str
    title: str
    url: str = ""
    """Address; empty if it is not certain."""
    protocols: tuple[str, ...]
    """Protocols whose results are comparable with the values, at most one for each data set."""
    epoch: PublishedEpoch
    """Epoch that the source's own runs report."""
    own_methods: tuple[str, ...]
    """Published names of the methods that the source ran itself; its other values repeat those of other sources."""
    differs: str = ""
    """Why there are none."""
    table: PrintedTable | None = None

    def __post_init__(self) -> None:
        assert self.epoch in get_args(PublishedEpoch), self.key
        assert bool(self.protocols) != bool(self.differs), f"{self.key} needs either protocols or a reason in differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNetwork:
    """What must be known of a network to read its values on a data set."""

    names: tuple[str, ...] = ()
    """Names in sources that mean it on this data set."""
    note: str = ""
    """Note on each of its values."""
    alone: str = ""
    """Why its accuracy without a teacher is not comparable with results under any protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestedValue:
    """A published accuracy that others do not find."""

    pair: str
    method: str
    """Published name."""
    top1: float
    why: str
    """What others find, and where they say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedMethod:
    """A method, or a combination of methods, with published values."""

    name: str
    """Name in the files of values."""
    label: str
    """Name in tables."""
    family: Family
    """Family; empty if it is not certain, and for a student without a teacher."""
    year: int | None
    paper: str
    kdbench: str
    """Method of kdbench whose default is exactly this one; empty for none."""

    def __post_init__(self) -> None:
        assert self.family in get_args(Family), self.name


def datasets() -> list[str]:
    """List the data sets with published values."""
    names = (file.name for file in _folder().iterdir())
    return sorted(name.removesuffix(".csv") for name in names if name.endswith(".csv") and name != METHODS_FILE)


def read_values(dataset: str) -> pd.DataFrame:
    """Read the values of a data set: numbers as numbers, ``also_in`` and ``disagrees`` as tuples, the rest as text."""
    frame = _read_csv(f"{dataset}.csv")
    for column in _NUMBERS:
        frame[column] = pd.to_numeric(frame[column]) if column in frame else math.nan
    frame["n"] = pd.to_numeric(frame["n"]).astype("Int64")
    frame["also_in"] = [tuple(text.split()) for text in frame["also_in"]]
    frame["disagrees"] = [tuple(float(value) for value in text.split()) for text in frame["disagrees"]]
    return frame


def read_networks(dataset: str) -> dict[str, PublishedNetwork]:
    """Read what must be known of the networks of a data set, by kdbench's names."""
    entries = _read_toml("networks.toml").get(dataset, {})
    return {name: PublishedNetwork(**entry | {"names": tuple(entry["names"])}) for name, entry in entries.items()}


def read_contested(dataset: str) -> list[ContestedValue]:
    """Read the contested values of a data set."""
    return [ContestedValue(**entry) for entry in _read_toml("contested.toml").get(dataset, [])]


def parse_printed(text: str, networks: Mapping[str, PublishedNetwork]) -> Pair:
    """Read a pair by the names that sources give to networks of a data set, or by kdbench's.

    Raises
    ------
    UserError
        It is no pair, or a name is not known.
    """
    printed = {squeeze(name): network for network, known in networks.items() for name in known.names}
    pair = Pair.parse(text)
    teacher, student = (printed.get(squeeze(name), name) for name in (pair.teacher.network, pair.student))
    return parse_pair(str(Pair(replace(pair.teacher, network=teacher), student)))


def read_methods() -> dict[str, PublishedMethod]:
    """Read the published methods by name."""
    rows: list[dict[Any, Any]] = _read_csv(METHODS_FILE).to_dict("records")
    return {row["name"]: PublishedMethod(**row | {"year": int(row["year"]) if row["year"] else None}) for row in rows}


def read_sources() -> dict[str, Source]:
    """Read the sources by key."""
    return {key: _source(key, **entry) for key, entry in _read_toml("sources.toml").items()}


def _source(
    key: str, own: list[str], protocols: list[str], table: dict[str, Any] | None = None, **texts: Any
) -> Source:
    printed = None
    if table is not None:
        printed = PrintedTable(**table | {name: tuple(table[name]) for name in ("pairs", "rows")})
    return Source(key=key, own_methods=tuple(own), protocols=tuple(protocols), table=printed, **texts)


def _read_toml(name: str) -> dict[str, Any]:
    return tomllib.loads((_folder() / name).read_text(encoding="utf-8"))


def _read_csv(name: str) -> pd.DataFrame:
    """Read a file with all columns as text; an empty field is an empty text."""
    text = (_folder() / name).read_text(encoding="utf-8")
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def _folder() -> Traversable:
    return resources.files("kdbench.results") / "published"
