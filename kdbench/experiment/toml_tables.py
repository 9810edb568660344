"""Make dataclasses of the tables of a TOML file, with a message for each key and value that does not fit."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from kdbench.errors import UserError

_Table = TypeVar("_Table")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "a table"}


def place_hint(kind: type, key: str) -> str:
    """Return words that name the table of a dataclass that has a key, as the end of a message; "" if none."""
    hints = {name: typing.get_origin(hint) or hint for name, hint in typing.get_type_hints(kind).items()}
    tables = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    homes = [name for name, table in tables.items() if key in {f.name for f in dataclasses.fields(table)}]
    return f"; {key} is a key of {' and '.join(f'[{name}]' for name in homes)}" if homes else ""


def read_table(kind: type[_Table], values: Mapping[str, Any], where: str, parent: type | None = None) -> _Table:
    """Make a dataclass of a table of TOML: its keys are the fields, its tables those that are dataclasses.

    Parameters
    ----------
    parent
        The dataclass that this one is a table of, whose other tables an unknown key may belong in.

    Raises
    ------
    UserError
        A key is unknown or missing, or a value is of the wrong kind or out of range; the message begins with
        ``where``.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    known, hints = ", ".join(fields), typing.get_type_hints(kind)
    for key in values:
        if key not in fields:
            hint = place_hint(parent or kind, key)
            raise UserError(f"{where}: unknown key {key!r}: known are {known}{hint}")
    for key, each in fields.items():
        if key not in values and each.default is each.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: {key} is missing: known are {known}")
    try:
        return kind(**{key: _converted(key, value, hints[key], where, kind) for key, value in values.items()})
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _converted(key: str, value: Any, hint: Any, where: str, parent: type) -> Any:
    """Return a value of TOML as the type of a field."""
    words = ""
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:  # the latter for a Literal
        hint, *others = (each for each in typing.get_args(hint) if each is not types.NoneType)
        choices = [choice for other in others for choice in typing.get_args(other)]
        if value in choices:
            return value
        words = "".join(f" or {choice!r}" for choice in choices)
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{key} must be {' or '.join(map(repr, arguments))}, not {value!r}")
        return value
    if origin is tuple:
        number = None if arguments[-1] is Ellipsis else len(arguments)
        if type(value) is not list or number not in {None, len(value)}:
            raise ValueError(f"{key} must be a list{f' of {number}' if number else ''}{words}, not {value!r}")
        return tuple(_converted(key, each, arguments[0], where, parent) for each in value)
    if origin is float and type(value) is int:
        value = float(value)
    kind = dict if dataclasses.is_dataclass(origin) else origin
    if type(value) is not kind:
        raise ValueError(f"{key} must be {_WORDS[kind]}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} must be finite, not {value}")
    if origin is dict:
        return {name: _converted(f"{key}.{name}", each, arguments[1], where, parent) for name, each in value.items()}
    return read_table(origin, value, f"{where}: [{key}]", parent) if kind is dict else value
