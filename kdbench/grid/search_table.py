"""Read the table ``[search]`` of a grid's file: how many trials, of what length, on which pairs, in which spaces."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from kdbench.config import space_of
from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair
from kdbench.experiment.registry import load_method, method_name
from kdbench.experiment.rule_groups import MAX_EPOCHS
from kdbench.experiment.settings import flat
from kdbench.search.study import study_seeds
from kdbench.space import Among, Range, Searched
from kdbench.utils.names import find_name
from kdbench.utils.values import shown, whole_number

_KEYS = ("trials", "studies", "on", "epochs", "rungs", "space", "rules")
_RULES = ("learning_rate", "weight_decay")
"""Rules that may be searched, for all methods at once."""
_MAX_TRIALS, _MAX_STUDIES = 1000, 100
_EXAMPLE = '{low = 0.1, high = 10, scale = "log"} or a list of values'


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTable:
    """What a grid's file says of its search."""

    trials: int = 16
    """Trials of each method and pair; the first one is the default."""
    studies: int = 1
    """Repetitions of the whole search, each with other trials and seeds."""
    on: tuple[Pair, ...]
    """Pairs on which settings are searched."""
    rungs: tuple[int, ...]
    """Epochs of the trials; with several, each of them but the first has the better half of the trials before."""
    spaces: dict[str, dict[str, Searched]]
    """What is searched of each method."""
    rules: dict[str, Searched] = field(default_factory=dict)
    """Rules that are searched, and what they are multiplied with."""


def read_search(table: Mapping[str, Any], methods: Sequence[str], pairs: Sequence[Pair]) -> SearchTable:
    """Read the table.

    Raises
    ------
    UserError
        A key is unknown or missing, or its value is of the wrong type, or names what is not in the grid.
    """
    if not isinstance(table, dict):
        raise UserError("must be a table, [search]")
    for key in table:
        if key not in _KEYS:
            raise UserError(f"unknown key {key!r}: known are {', '.join(_KEYS)}")
    if ("epochs" in table) == ("rungs" in table):
        raise UserError("give the epochs of the trials as epochs = 60, or as rungs = [15, 60]; one of the two")
    rungs = _rungs(table["rungs"]) if "rungs" in table else (_whole("epochs", table["epochs"], MAX_EPOCHS),)
    rules = {
        find_name("rule", name, _RULES, f"a search knows {' and '.join(_RULES)}"): _multiples(name, value)
        for name, value in _table("rules", table).items()
    }
    return SearchTable(
        trials=_whole("trials", table.get("trials", 16), _MAX_TRIALS),
        studies=_whole("studies", table.get("studies", 1), _MAX_STUDIES),
        on=_on(table["on"], pairs) if "on" in table else tuple(pairs),
        rungs=rungs,
        spaces=_spaces(_table("space", table), methods),
        rules=rules,
    )


def seeds_taken(search: SearchTable) -> set[int]:
    """Return the seeds of trials, which no run may have that is compared."""
    return {seed for study in range(1, search.studies + 1) for seed in study_seeds(study)}


def _whole(key: str, value: Any, high: int) -> int:
    try:
        return whole_number(value, 1, high)
    except ValueError as error:
        raise UserError(f"{key} {error}") from None


def _table(key: str, table: Mapping[str, Any]) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{key} must be a table, [search.{key}], not {shown(value)}")
    return value


def _rungs(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise UserError(f"rungs must be a list of epochs such as [15, 60], not {shown(value)}")
    rungs = tuple(_whole("rungs", each, MAX_EPOCHS) for each in value)
    if any(one >= other for one, other in itertools.pairwise(rungs)):
        raise UserError(f"rungs must grow, as [15, 60] do, not {shown(value)}")
    return rungs


def _on(value: Any, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    known = {str(pair): pair for pair in pairs}
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise UserError(f"on must be a list of pairs of this grid, not {shown(value)}")
    names = [find_name("pair", word, known, f"the pairs of this grid are {', '.join(known)}") for word in value]
    return tuple(known[name] for name in dict.fromkeys(names))


def _spaces(given: Mapping[str, Any], methods: Sequence[str]) -> dict[str, dict[str, Searched]]:
    spaces = {method: dict(space_of(load_method(method).Config)) for method in methods}
    for name, table in given.items():
        method = find_name("method", name, methods, f"the methods of this grid are {', '.join(methods)}")
        if not isinstance(table, dict):
            raise UserError(f"space of {method} must be a table, [search.space.{method}], not {shown(table)}")
        named = flat(method, table)
        settings = _settings(method, named)
        spaces[method] = {
            find_name("setting", key, settings, f"the settings of {method} are {', '.join(settings)}"): _searched(
                f"space of {method}: {key}", value
            )
            for key, value in named.items()
        }
    return spaces


def _settings(method: str, table: Mapping[str, Any]) -> list[str]:
    """Return the settings of a method, and those of the methods whose settings a table names as ``NAME.SETTING``."""
    settings = [each.name for each in dataclasses.fields(load_method(method).Config)]
    for base in sorted({method_name(owner) for owner, point, _ in (key.partition(".") for key in table) if point}):
        settings += [f"{base}.{each.name}" for each in dataclasses.fields(load_method(base).Config)]
    return settings


def _multiples(name: str, value: Any) -> Searched:
    searched = _searched(f"rules: {name}", value)
    values = searched.values if isinstance(searched, Among) else (searched.low, searched.high)
    if not all(isinstance(each, int | float) and each > 0 for each in values):
        raise UserError(f"rules: {name} says what the protocol's is multiplied with, numbers > 0, not {shown(value)}")
    return searched


def _searched(what: str, value: Any) -> Searched:
    """Read a range, ``{low = 1, high = 10, scale = "log"}``, or a list of values."""
    try:
        if isinstance(value, list):
            return Among(tuple(value))
        if isinstance(value, dict) and {"low", "high"} <= value.keys() <= {"low", "high", "scale"}:
            low, high, scale = value["low"], value["high"], value.get("scale", "linear")
            numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (low, high))
            if numbers and scale in ("log", "linear"):
                return Range(float(low), float(high), scale)
    except (ValueError, TypeError) as error:
        raise UserError(f"{what}: {error}") from None
    raise UserError(f"{what} must be {_EXAMPLE}, not {shown(value)}")
