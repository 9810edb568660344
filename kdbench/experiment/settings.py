"""Resolve a method's settings for a pair: defaults, recipe, and what the user chose."""

from __future__ import annotations

import contextlib
import itertools
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdbench.config import BASE, Base, base_of, deciding, is_built_on_another
from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair
from kdbench.experiment.registry import load_base, load_method, method_name, method_source
from kdbench.utils.reading import Missing, Unreadable, parse_word, read_toml
from kdbench.utils.values import number, shown, whole_number

_NUMBERS: dict[Any, Callable[[object], float]] = {float: number, int: whole_number}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A method's published settings for pairs of one data set, and where they were published."""

    dataset: str
    pairs: tuple[str, ...]
    settings: dict[str, Any]
    source: str


@dataclass(frozen=True, slots=True)
class Settings:
    """A method's resolved hyper-parameters for one pair."""

    config: Any
    chosen: dict[str, Any]
    """What the user changed, of the settings that decide results."""
    source: str

    def values(self) -> dict[str, Any]:
        """Return the hyper-parameters that decide results, as plain values."""
        return deciding(self.config)


def load_recipes(name: str) -> list[Recipe]:
    """Read a method's recipe file, which lies beside its module; no file, no recipes.

    Raises
    ------
    UserError
        It is not TOML, or an entry is incomplete.
    """
    file = method_source(name).recipe_file
    try:
        return [_recipe(entry) for entry in read_toml(file).get("recipe", [])]
    except Missing:
        return []
    except Unreadable as error:
        raise UserError(f"{file} {error}") from None
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f'{file}: each [[recipe]] needs dataset = "...", pairs = ["TEACHER>STUDENT"], settings = {{...}}, '
            'source = "..."'
        ) from None


def _recipe(entry: dict[str, Any]) -> Recipe:
    """Read an entry of a recipe file; KeyError, TypeError or AttributeError if it is none."""
    recipe = Recipe(entry["dataset"], tuple(entry["pairs"]), entry.get("settings", {}), entry["source"])
    texts = (recipe.dataset, recipe.source, *recipe.pairs)
    if not (all(isinstance(text, str) for text in texts) and isinstance(recipe.settings, dict)):
        raise TypeError
    return recipe


def resolve_settings(
    name: str, *, dataset: str, teacher: str | None, student: str, chosen: dict[str, Any] | None = None
) -> Settings:
    """Return a method's hyper-parameters for a pair: defaults, then its recipe, then what the user chose.

    Those of the method that it is built on, called ``NAME.SETTING``, are resolved in the same way: its recipe counts.

    Raises
    ------
    UserError
        A key is not a setting, or a value is of the wrong kind or out of range.
    """
    config = load_method(name).Config
    if not isinstance(chosen or {}, dict):
        raise UserError(f"settings of method {name} must be a dictionary, not {shown(chosen)}")
    pair = str(Pair.of(teacher, student)) if teacher else ""
    recipes = [recipe for recipe in load_recipes(name) if recipe.dataset == dataset and pair in recipe.pairs]
    if len(recipes) > 1:
        file = method_source(name).recipe_file
        raise UserError(f"{file} has {len(recipes)} recipes for {pair} on {dataset}: keep one")
    published, of_base = _split(name, recipes[0].settings) if recipes else ({}, {})
    chosen, chosen_of_base = _split(name, chosen or {})
    values = _typed(name, config, published) | _typed(name, config, chosen)
    source = "defaults"
    if teacher:
        source = recipes[0].source if recipes else f"defaults; no published settings for {pair} on {dataset}"
    base: Settings | None = None
    if default := base_of(config()):
        word = values.pop(BASE, None)
        base_name = default.name if word is None else word
        base = resolve_settings(
            base_name,
            dataset=dataset,
            teacher=teacher,
            student=student,
            chosen=_of_base(name, base_name, of_base) | _of_base(name, base_name, chosen_of_base),
        )
        values[BASE] = load_base(base_name, base.config)
        source = f"{source}; {base_name}: {base.source}"
    try:
        resolved = config(**values)
    except ValueError as error:
        raise UserError(f"method {name}: {error}") from None
    plain = deciding(resolved)
    chosen = {key: plain[key] for key in chosen if key in plain}
    if base:
        chosen |= {f"{base_name}.{key}": value for key, value in base.chosen.items()}
    return Settings(resolved, chosen, source)


def flat(name: str, table: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a method with those of its base by their dotted names, as TOML's tables have them.

    Raises
    ------
    UserError
        A setting of a base is given twice, or names no method.
    """
    config = load_method(name).Config
    if not is_built_on_another(config):
        return table
    settings: dict[str, Any] = {}
    for key, value in table.items():
        nested = isinstance(value, dict) and key not in typing.get_type_hints(config)
        dotted = {f"{key}.{inner}": each for inner, each in value.items()} if nested else {key: value}
        for called, each in dotted.items():
            spelled, meant = _spelled(called, each)
            if spelled in settings:
                raise UserError(f"method {name} is given {spelled} twice: keep one")
            settings[spelled] = meant
    return settings


def _spelled(key: Any, value: Any) -> tuple[Any, Any]:
    """Return a setting with the registered name of the base that it names, as several values may."""
    if key == BASE:
        return key, [_base_name(each) for each in value] if isinstance(value, list) else _base_name(value)
    if not _is_of_base(key):
        return key, value
    owner, _, setting = key.partition(".")
    return f"{method_name(owner)}.{setting}", value


def _base_name(word: Any) -> Any:
    return method_name(word) if isinstance(word, str) else word


def _is_of_base(key: Any) -> bool:
    return isinstance(key, str) and "." in key


def _split(name: str, table: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide settings into those of a method, and those of its base by their dotted names."""
    settings = flat(name, table)
    if not is_built_on_another(load_method(name).Config):
        return settings, {}
    of_base = {key: value for key, value in settings.items() if _is_of_base(key)}
    return {key: value for key, value in settings.items() if key not in of_base}, of_base


def _of_base(name: str, base: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a base by their own names; UserError if one is another method's."""
    own = {}
    for key, value in settings.items():
        owner, _, setting = key.partition(".")
        if owner != base:
            raise UserError(f"method {name} has no setting {key!r}: its base is {base}; set base={owner} for another")
        own[setting] = value
    return own


def parse_settings(words: list[str], methods: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Read ``key=value`` words, values in TOML's notation or as bare text, into the settings of each method.

    A bare key means every method that has such a setting, ``method.key`` for one of them. A key
    that is given several times takes each of its values: a method's list holds every combination.

    Raises
    ------
    UserError
        A word is not ``key=value``, is repeated, or fits none of the methods.
    """
    chosen: dict[str, dict[str, list[Any]]] = {name: {} for name in methods}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key and equals and text):
            raise UserError(f"--set takes key=value, not {shown(word)}")
        value = parse_word(text)
        for name, setting in _meant(key, methods):
            values = chosen[name].setdefault(setting, [])
            if value in values:
                raise UserError(f"--set gives {key} the value {shown(value)} twice")
            values.append(value)
    return {
        name: [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]
        for name, settings in chosen.items()
    }


def _meant(key: str, methods: list[str]) -> list[tuple[str, str]]:
    """Return the methods and their setting that a key of ``--set`` means."""
    method, point, setting = key.partition(".")
    if point:
        name = method_name(method)
        if name in methods:
            return [(name, setting)]
        if matches := [(each, key) for each in methods if is_built_on_another(load_method(each).Config)]:
            return matches
        raise UserError(f"--set {key}: method {name} is not among those of --method")
    if len(methods) == 1:
        return [(methods[0], key)]
    matches = [(name, key) for name in methods if key in typing.get_type_hints(load_method(name).Config)]
    if not matches:
        raise UserError(
            f"--set {key}: none of {', '.join(methods)} has such a setting; 'kdbench show METHOD' lists them"
        )
    return matches


def _typed(name: str, config: type, chosen: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(config)
    typed = {}
    for key, value in chosen.items():
        if key not in hints:
            known = ", ".join(sorted(hints)) or "none"
            more = ", and those of its base as NAME.SETTING" if is_built_on_another(config) else ""
            raise UserError(f"method {name} has no setting {key!r}: its settings are {known}{more}")
        typed[key] = _convert(name, key, value, hints[key])
    return typed


def _convert(name: str, key: str, value: Any, kind: Any) -> Any:
    kind = str if kind is Base else kind
    options = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    with contextlib.suppress(ValueError):
        if kind in _NUMBERS:
            return _NUMBERS[kind](value)
        if type(value) is kind or any(type(value) is type(option) and value == option for option in options):
            return value
    wanted = " or ".join(map(repr, options)) or getattr(kind, "__name__", str(kind))
    raise UserError(f"setting {key} of method {name} must be {wanted}, not {shown(value)}{_why(value)}")


def _why(value: Any) -> str:
    """Return what is wrong with a number or its text, if it is one that is not finite or too large."""
    try:
        return "" if math.isfinite(float(value)) else ", which is not finite"
    except OverflowError:
        return ", which is too large"
    except (ValueError, TypeError):
        return ""
