"""Resolve a method's settings for a pair: defaults, recipe, and what the user chose."""

from __future__ import annotations

import contextlib
import itertools
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdbench.config import deciding
from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair
from kdbench.experiment.registry import load_method, method_name, method_source
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

    Raises
    ------
    UserError
        A key is not a setting, or a value is of the wrong kind or out of range.
    """
    config = load_method(name).Config
    if not isinstance(chosen or {}, dict):
        raise UserError(f"settings of method {name} must be a dictionary, not {shown(chosen)}")
    chosen = _typed(name, config, chosen or {})
    pair = str(Pair.of(teacher, student)) if teacher else ""
    recipes = [recipe for recipe in load_recipes(name) if recipe.dataset == dataset and pair in recipe.pairs]
    if len(recipes) > 1:
        file = method_source(name).recipe_file
        raise UserError(f"{file} has {len(recipes)} recipes for {pair} on {dataset}: keep one")
    published = _typed(name, config, recipes[0].settings) if recipes else {}
    source = "defaults"
    if teacher:
        source = recipes[0].source if recipes else f"defaults; no published settings for {pair} on {dataset}"
    try:
        resolved = config(**{**published, **chosen})
        return Settings(resolved, {key: value for key, value in chosen.items() if key in deciding(resolved)}, source)
    except ValueError as error:
        raise UserError(f"method {name}: {error}") from None


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
    method, dot, setting = key.partition(".")
    if dot:
        name = method_name(method)
        if name not in methods:
            raise UserError(f"--set {key}: method {name} is not among those of --method")
        return [(name, setting)]
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
            raise UserError(f"method {name} has no setting {key!r}: its settings are {known}")
        typed[key] = _convert(name, key, value, hints[key])
    return typed


def _convert(name: str, key: str, value: Any, kind: Any) -> Any:
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
