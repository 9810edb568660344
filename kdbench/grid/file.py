"""A grid's TOML file: pairs, methods and seeds, read and checked line by line."""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair, named_pairs
from kdbench.experiment.protocol import protocol_names
from kdbench.experiment.registry import method_names
from kdbench.models import NETWORKS, parse_pair
from kdbench.utils.names import find_name
from kdbench.utils.precision import Precision

_KEYS = ("protocol", "pairs", "methods", "seeds", "epochs", "precision", "data", "method")


_Name = TypeVar("_Name", str, Pair)


_EXAMPLE = 'pairs = ["ResNet50>MobileNetV2"]'


@dataclass(frozen=True, slots=True, kw_only=True)
class GridFile:
    """What a grid's file says, with the one spelling of every name."""

    path: Path
    protocol: str
    pairs: tuple[Pair, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: dict[str, dict[str, tuple[Any, ...]]]
    """For each method, its settings in this grid; every combination of their values is tried."""
    epochs: int | None = None
    precision: str | None = None
    data: str | None = None

    @property
    def name(self) -> str:
        """What the grid is called."""
        return self.path.stem


def read_grid(path: Path) -> GridFile:
    """Read a grid's file.

    Raises
    ------
    UserError
        It is not there, is no TOML, or holds something unknown, missing, double or of the wrong kind: the text names
        the line's content and what is known.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: README.md, 'A grid', shows one to begin with") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name the grid's file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    for key, value in values.items():
        with about(path, key, value):
            find_exactly("key", key, _KEYS)
    for key in ("protocol", "pairs", "methods", "seeds"):
        if key not in values:
            raise UserError(f"{path} has no line {key!r}: {', '.join(_KEYS[:4])} are needed, e.g. {_EXAMPLE}")
    with about(path, "protocol", values["protocol"]):
        protocol = _named("protocol", _typed(values["protocol"], str, "the name of a protocol"), protocol_names())
    with about(path, "methods", values["methods"]):
        names = _listed(values["methods"], "names of methods")
        methods = _once("method", [_named("method", name, method_names()) for name in names])
    with about(path, "pairs", values["pairs"]):
        pairs = _once("pair", list(_pairs(_listed(values["pairs"], "pairs 'TEACHER>STUDENT' or names of sets"))))
    with about(path, "seeds", values["seeds"]):
        seeds = _seeds(values["seeds"])
    settings: dict[str, dict[str, tuple[Any, ...]]] = {}
    for name, table in _typed(values.get("method", {}), dict, "tables [method.NAME]").items():
        with about(path, f"[method.{name}]", table):
            method = _named("method", name, methods, "of this grid")
            settings[method] = _settings(_typed(table, dict, "a table of settings"))
    with about(path, "epochs", values.get("epochs")):
        epochs = _typed(values.get("epochs"), int | None, "a whole number")
        if epochs is not None and epochs < 1:
            raise UserError("there must be at least 1")
    with about(path, "precision", values.get("precision")):
        precision = _typed(values.get("precision"), str | None, "a word")
        if precision is not None:
            find_exactly("precision", precision, get_args(Precision))
    with about(path, "data", values.get("data")):
        data = _typed(values.get("data"), str | None, "a folder, or npz:FILE")
    return GridFile(
        path=path,
        protocol=protocol,
        pairs=pairs,
        methods=methods,
        seeds=seeds,
        settings=settings,
        epochs=epochs,
        precision=precision,
        data=data,
    )


@contextlib.contextmanager
def about(path: Path, key: str, value: Any) -> Iterator[None]:
    """Let errors name the line that they are about."""
    try:
        yield
    except UserError as error:
        line = f"{key} {json.dumps(value, default=str)}" if key.startswith("[") else f"{key} = {_shortened(value)}"
        raise UserError(f"{path}: {line}: {error}") from None


def _shortened(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."


def find_exactly(kind: str, word: str, known: Sequence[str]) -> None:
    """Refuse a word that is not one of those that are known."""
    if word not in known:
        raise UserError(f"unknown {kind} {word!r}: known are {', '.join(known)}")


def _named(kind: str, name: str, known: Sequence[str], where: str = "") -> str:
    return find_name(kind, name, known, f"known{f' {where}' if where else ''} are {', '.join(known)}")


def _typed(value: Any, kind: Any, what: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"this must be {what}")
    return value


def _listed(value: Any, what: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise UserError(f"this must be a list of {what}")
    return value


def _once(kind: str, names: list[_Name]) -> tuple[_Name, ...]:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{kind} {name} is there twice: its cells would be the same")
    return tuple(names)


def _pairs(words: list[str]) -> Iterator[Pair]:
    sets = named_pairs()
    for word in words:
        if word in sets:
            yield from sets[word].pairs
            continue
        try:
            yield parse_pair(word)
        except UserError as error:
            raise UserError(f"{error}; known are the sets {', '.join(sets)} and {', '.join(NETWORKS)}") from None


def _seeds(value: Any) -> tuple[int, ...]:
    seeds = list(range(1, value + 1)) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError("this must be how many seeds there are, at least 1, or a list of seeds")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**31]:
        raise UserError(f"a seed must be between 0 and {2**31 - 1}, not {wrong[0]}")
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise UserError(f"seed {twice} is there twice: its cells would be the same")
    return tuple(seeds)


def _settings(table: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    settings = {}
    for key, value in table.items():
        values = tuple(value) if isinstance(value, list) else (value,)
        if not values or len({json.dumps(one, default=str) for one in values}) < len(values):
            raise UserError(f"{key} must be one value, or several that differ")
        settings[key] = values
    return settings
