"""Read a grid's TOML file: pairs, methods and seeds, checked line by line."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args

from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair, named_pairs
from kdbench.experiment.protocol import load_protocol
from kdbench.experiment.registry import load_method, method_name
from kdbench.experiment.rule_groups import MAX_EPOCHS
from kdbench.experiment.settings import flat
from kdbench.grid.search_table import SearchTable, read_search, seeds_taken
from kdbench.models import canonical_network, network_sources, parse_pair
from kdbench.utils.names import find_name
from kdbench.utils.precision import Precision
from kdbench.utils.reading import Missing, Unreadable, read_toml

_KEYS = ("protocol", "pairs", "methods", "seeds", "epochs", "precision", "data", "dataset", "init", "method", "search")
_EPOCHS = "epochs"
"""Of the grid; in the table of a method, unless that has a setting of this name, of its cells."""
_Name = TypeVar("_Name", str, Pair)
MAX_CELLS = 200_000
"""Cells that a grid may have: a plan of them takes about ten seconds."""
_EXAMPLE = 'pairs = ["ResNet50>MobileNetV2"]'


@dataclass(frozen=True, slots=True, kw_only=True)
class GridFile:
    """The content of a grid's file, with names in their canonical spelling."""

    path: Path
    protocol: str
    pairs: tuple[Pair, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: dict[str, dict[str, tuple[Any, ...]]]
    """Settings of each method in this grid; every combination of their values is a cell."""
    epochs: int | None = None
    epochs_of: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Epochs of a method where it has its own; each of them is a schedule of its own."""
    precision: str | None = None
    data: str | None = None
    dataset: str | None = None
    """Name of a data set in place of the protocol's."""
    init: dict[str, str]
    """Weights that students' training starts from, by the student: files, or names of published weights."""
    search: SearchTable | None = None
    """What is searched before the runs that are compared."""

    @property
    def name(self) -> str:
        """Return the name of the grid."""
        return self.path.stem

    @property
    def num_cells(self) -> int:
        """Return the number of cells; one that several pairs share counts for each of them."""
        rows = sum(
            math.prod(map(len, (*self.settings.get(method, {}).values(), self.epochs_of.get(method, (None,)))))
            for method in self.methods
        )
        search = self.search
        trials = len(search.on) * len(self.methods) * search.studies * search.trials if search else 0
        return len(self.pairs) * rows * len(self.seeds) + trials


def read_grid(path: Path) -> GridFile:
    """Read a grid's file.

    Raises
    ------
    UserError
        The file does not exist, is not TOML, or a line is unknown, missing, repeated or of the wrong type: the text
        quotes the line and lists what is known.
    """
    try:
        values = read_toml(path)
    except Missing:
        raise UserError(f"file {path} does not exist: README.md, 'A grid', shows one to start from") from None
    except Unreadable as error:
        raise UserError(f"{path} {error}") from None
    for key, value in values.items():
        with error_context(path, key, value):
            require_name("key", key, _KEYS)
    for key in ("protocol", "pairs", "methods", "seeds"):
        if key not in values:
            raise UserError(f"{path} has no line {key!r}: a grid needs {', '.join(_KEYS[:4])}, e.g. {_EXAMPLE}")
    with error_context(path, "protocol", values["protocol"]):
        protocol = load_protocol(_typed(values["protocol"], str, "the name of a protocol")).name
    with error_context(path, "methods", values["methods"]):
        names = _listed(values["methods"], "names of methods")
        methods = _distinct("method", [method_name(name) for name in names])
    with error_context(path, "pairs", values["pairs"]):
        pairs = _distinct("pair", list(_pairs(_listed(values["pairs"], "pairs 'TEACHER>STUDENT' or names of sets"))))
    with error_context(path, "seeds", values["seeds"]):
        seeds = _seeds(values["seeds"])
    with error_context(path, "method", values.get("method")):
        tables = _typed(values.get("method", {}), dict, "tables [method.NAME]")
    settings, epochs_of = _of_methods(path, tables, methods)
    with error_context(path, _EPOCHS, values.get(_EPOCHS)):
        epochs = None if _EPOCHS not in values else _epochs(values[_EPOCHS])
    with error_context(path, "precision", values.get("precision")):
        precision = _typed(values.get("precision"), str | None, "a word")
        if precision is not None:
            require_name("precision", precision, get_args(Precision))
    with error_context(path, "data", values.get("data")):
        data = _typed(values.get("data"), str | None, "a folder, or npz:FILE")
    with error_context(path, "dataset", values.get("dataset")):
        dataset = _typed(values.get("dataset"), str | None, "the name of a data set")
    students = [pair.student for pair in pairs]
    init: dict[str, str] = {}
    with error_context(path, "init", values.get("init")):
        for name, weights in _typed(values.get("init", {}), dict, 'a table of weights, {"STUDENT" = "FILE"}').items():
            network = canonical_network(name)
            require_name("student", network, students)
            init[network] = _typed(weights, str, "a file, or the name of published weights")
    with error_context(path, "[search]", values.get("search")):
        search = _search(values, methods, pairs, settings, seeds)
    file = GridFile(
        path=path,
        protocol=protocol,
        pairs=pairs,
        methods=methods,
        seeds=seeds,
        settings=settings,
        epochs=epochs,
        epochs_of=epochs_of,
        precision=precision,
        data=data,
        dataset=dataset,
        init=init,
        search=search,
    )
    if file.num_cells > MAX_CELLS:
        last = "settings, seeds and trials" if search else "settings and seeds"
        raise UserError(
            f"{path}: pairs, methods, {last} make {file.num_cells:,} cells, but a grid has at most "
            f"{MAX_CELLS:,}: give fewer of them, or several files"
        )
    return file


@contextlib.contextmanager
def error_context(path: Path, key: str, value: Any) -> Iterator[None]:
    """Prefix user errors with the file and the line they concern."""
    try:
        yield
    except UserError as error:
        line = f"{key} {json.dumps(value, default=str)}" if key.startswith("[") else f"{key} = {_shortened(value)}"
        raise UserError(f"{path}: {line}: {error}") from None


def _shortened(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."


def require_name(noun: str, name: str, choices: Sequence[str]) -> None:
    """Raise an error that lists the choices if a name is not one of them."""
    if name not in choices:
        raise UserError(f"unknown {noun} {name!r}: known are {', '.join(choices)}")


def _typed(value: Any, expected_type: Any, description: str) -> Any:
    if not isinstance(value, expected_type) or isinstance(value, bool):
        raise UserError(f"must be {description}")
    return value


def _listed(value: Any, description: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise UserError(f"must be a list of {description}")
    return value


def _distinct(noun: str, names: list[_Name]) -> tuple[_Name, ...]:
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(f"{noun} {name} is listed twice: keep one of them")
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
            networks = ", ".join(network_sources())
            raise UserError(f"{error}; known are the sets {', '.join(sets)} and {networks}") from None


def _seeds(value: Any) -> tuple[int, ...]:
    number = value if isinstance(value, int) else len(value) if isinstance(value, list) else 0
    if number > MAX_CELLS:
        raise UserError(f"a grid has at most {MAX_CELLS:,} cells: give fewer seeds")
    seeds = list(range(1, value + 1)) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError("seeds must be a positive number (5 means 1 to 5) or a list such as [1, 2, 7]")
    if out_of_range := [seed for seed in seeds if not 0 <= seed < 2**31]:
        raise UserError(f"a seed must be between 0 and {2**31 - 1}, not {_shortened(out_of_range[0])}")
    repeated, count = Counter(seeds).most_common(1)[0]
    if count > 1:
        raise UserError(f"seed {repeated} is listed twice: keep one of them")
    return tuple(seeds)


def _search(
    values: dict[str, Any],
    methods: tuple[str, ...],
    pairs: tuple[Pair, ...],
    settings: dict[str, dict[str, tuple[Any, ...]]],
    seeds: tuple[int, ...],
) -> SearchTable | None:
    """Read the table ``[search]``, if there is one; a method that is searched has one value of each setting."""
    if "search" not in values:
        return None
    search = read_search(values["search"], methods, pairs)
    for method, table in settings.items():
        for key, choices in table.items():
            if len(choices) > 1:
                raise UserError(f"{method} is searched, so [method.{method}] has one value of {key}, its default")
    if taken := sorted(seeds_taken(search).intersection(seeds)):
        raise UserError(f"seed {taken[0]} is one of the search: give seeds that no trial has")
    return search


def _of_methods(
    path: Path, tables: dict[str, Any], methods: tuple[str, ...]
) -> tuple[dict[str, dict[str, tuple[Any, ...]]], dict[str, tuple[int, ...]]]:
    """Read the tables of methods.

    Returns
    -------
    settings, epochs
        By method, the epochs of those that have their own.
    """
    settings: dict[str, dict[str, tuple[Any, ...]]] = {}
    epochs: dict[str, tuple[int, ...]] = {}
    for name, table in tables.items():
        with error_context(path, f"[method.{name}]", table):
            method = find_name("method", name, methods, f"known of this grid are {', '.join(methods)}")
            settings[method] = _settings(flat(method, _typed(table, dict, "a table of settings")))
            has_epochs = _EPOCHS in table and _EPOCHS not in {each.name for each in fields(load_method(method).Config)}
        if has_epochs:
            with error_context(path, f"[method.{name}] {_EPOCHS}", table[_EPOCHS]):
                epochs[method] = tuple(map(_epochs, settings[method].pop(_EPOCHS)))
    return settings, epochs


def _epochs(value: Any) -> int:
    epochs: int = _typed(value, int, "a whole number")
    if not 1 <= epochs <= MAX_EPOCHS:
        raise UserError(f"epochs must be at {'least 1' if epochs < 1 else f'most {MAX_EPOCHS:,}'}")
    return epochs


def _settings(table: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    settings = {}
    for key, value in table.items():
        values = tuple(value) if isinstance(value, list) else (value,)
        if not values or len({json.dumps(choice, default=str) for choice in values}) < len(values):
            raise UserError(f"{key} must be one value or a list of different values")
        settings[key] = values
    return settings
