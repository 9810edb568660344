"""Settings of a method: the base of every ``Config``, and fields that say what a value may be."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import math
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, dataclass_transform, final

from kdbench.space import Searched
from kdbench.utils.values import shown

_BOUNDS, _RESOURCE, _LATER, _SEARCH = "bounds", "resource", "later", "search"
BASE = "base"
"""The setting by which a method names the one that it is built on."""
_LARGEST = 1e100
"""The largest size of a number: its square and its cube can still be computed."""


@final
@dataclass(frozen=True, slots=True)
class Bounds:
    """Values that a numeric setting may have."""

    low: float
    high: float = math.inf
    open_below: bool = False
    """Whether ``low`` itself is out of bounds."""
    whole: bool = False
    """Whether values are whole numbers."""

    def __contains__(self, value: float) -> bool:
        return self.low < value <= self.high or (value == self.low and not self.open_below)

    def __str__(self) -> str:
        """The bounds as messages state them: ``> 0``, ``>= 0`` or ``in [0, 1]``."""
        if self.high < math.inf:
            return f"in [{self.low:g}, {self.high:g}]"
        return f"{'>' if self.open_below else '>='} {self.low:g}"


@dataclass_transform(kw_only_default=True, frozen_default=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Hyper-parameters of a method; the defaults are the paper's main setting.

    A method's own ``Config`` inherits from that of its base class and becomes a frozen dataclass by itself. Each
    field has a default and a docstring below it. A field made by `weight`, `temperature`, `positive`, `non_negative`,
    `fraction` or `count` has bounds, which are checked here; with ``search`` it is a setting that a search may choose.

    Raises
    ------
    ValueError
        A value is out of bounds or not finite, or `check` refuses the settings.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            for value in _numbers_in(getattr(self, field.name)):
                if not -_LARGEST <= value <= _LARGEST:
                    raise ValueError(f"{field.name} must be a finite number, at most {_LARGEST:g}, not {shown(value)}")
            if isinstance(field.default, Base) and not isinstance(getattr(self, field.name), Base):
                raise ValueError(f"{field.name} must be a method, not {shown(getattr(self, field.name))}")
        for name, bounds in bounds_of(type(self)).items():  # type: ignore[arg-type]
            if (value := getattr(self, name)) not in bounds:
                raise ValueError(f"{name} must be {bounds}, not {shown(value)}")
        self.check()

    def check(self) -> None:
        """Raise ValueError for settings that do not fit each other; by default all do."""


@final
@dataclass(frozen=True, slots=True, repr=False)
class Base:
    """Another method, with its settings, that a method is built on: the value of a setting called ``base``.

    `kdbench.experiment.registry.load_base` makes it by its name. Its own settings are called ``NAME.SETTING``.
    """

    name: str
    """Name of the method."""
    method: type[Any]
    """Its class."""
    config: Config
    """Its settings."""

    def __repr__(self) -> str:
        return repr(self.name)


def _numbers_in(value: Any) -> Iterator[float]:
    """Yield a setting's numbers, those in lists and tables among them."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list | tuple | set | frozenset):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers_in(item)


def weight(default: float, *, later: bool = False, resource: bool = False, search: Searched | None = None) -> Any:
    """Return a field for the factor of a term of the loss, >= 0.

    Parameters
    ----------
    default
        Value where nothing else is chosen.
    later
        See `later`.
    resource
        See `resource`.
    search
        What a search tries: `log`, `linear` or `among` of `kdbench.space`; by default it leaves the setting alone.
    """
    return _field(default, Bounds(0), later=later, resource=resource, search=search)


def non_negative(default: float, *, later: bool = False, resource: bool = False, search: Searched | None = None) -> Any:
    """Return a field for a number >= 0 that is no weight, such as a margin; keywords as in `weight`."""
    return _field(default, Bounds(0), later=later, resource=resource, search=search)


def temperature(default: float, *, later: bool = False, resource: bool = False, search: Searched | None = None) -> Any:
    """Return a field for a temperature, which divides logits or similarities, > 0; keywords as in `weight`.

    A field that is itself called ``temperature`` hides this name from the fields below it, which take `positive`.
    """
    return _field(default, Bounds(0, open_below=True), later=later, resource=resource, search=search)


def positive(default: float, *, later: bool = False, resource: bool = False, search: Searched | None = None) -> Any:
    """Return a field for a number > 0; keywords as in `weight`."""
    return _field(default, Bounds(0, open_below=True), later=later, resource=resource, search=search)


def fraction(default: float, *, later: bool = False, resource: bool = False, search: Searched | None = None) -> Any:
    """Return a field for a share of a whole, in [0, 1]; keywords as in `weight`."""
    return _field(default, Bounds(0, 1), later=later, resource=resource, search=search)


def count(default: int, *, later: bool = False, resource: bool = False, search: Searched | None = None) -> Any:
    """Return a field for a whole number > 0, such as a width; keywords as in `weight`."""
    return _field(default, Bounds(0, open_below=True, whole=True), later=later, resource=resource, search=search)


def resource(default: Any) -> Any:
    """Return a field that bounds memory or time and changes no result: no part of a cell's identity."""
    return _field(default, None, later=False, resource=True)


def choice(default: Any, *, search: Searched | None = None) -> Any:
    """Return a field for one of a few values, which a search may try."""
    return _field(default, None, later=False, resource=False, search=search)


def later(default: Any, *, search: Searched | None = None) -> Any:
    """Return a field that was added to a method whose results were kept before.

    Its default must change nothing: at that value the field is no part of a cell's identity, so that the cells of
    before stay what they are.
    """
    return _field(default, None, later=True, resource=False, search=search)


def _field(default: Any, bounds: Bounds | None, *, later: bool, resource: bool, search: Searched | None = None) -> Any:
    metadata = {_BOUNDS: bounds, _LATER: later, _RESOURCE: resource, _SEARCH: search}
    return dataclasses.field(default=default, metadata=metadata)


@functools.cache
def bounds_of(config: type[Any]) -> dict[str, Bounds]:
    """Return the bounds of a ``Config``'s settings by name, of those that have some.

    A field that gives an inherited one another default, without saying what it may be, keeps its bounds.
    """
    return _said(config, _BOUNDS)


@functools.cache
def space_of(config: type[Any]) -> dict[str, Searched]:
    """Return what a search tries of a ``Config``'s settings by name, of those that are searched; kept as bounds are."""
    return _said(config, _SEARCH)


def _said(config: type[Any], key: str) -> dict[str, Any]:
    """Return what fields say under a key, where they say something, those of inherited fields first."""
    owners = [owner for owner in reversed(config.__mro__) if dataclasses.is_dataclass(owner)]
    fields = [field for owner in owners for field in dataclasses.fields(owner)]
    return {field.name: field.metadata[key] for field in fields if field.metadata.get(key)}


def deciding(config: Config) -> dict[str, Any]:
    """Return the settings that decide results, as plain values; those of a base by their dotted names."""
    values = {
        field.name: value
        for field in dataclasses.fields(config)
        for value in (getattr(config, field.name),)
        if not field.metadata.get(_RESOURCE) and not (field.metadata.get(_LATER) and value == field.default)
    }
    base = values.get(BASE)
    if not isinstance(base, Base):
        return values
    return values | {BASE: base.name} | {f"{base.name}.{name}": value for name, value in deciding(base.config).items()}


def base_of(config: Config) -> Base | None:
    """Return the method that the one with these settings is built on, if it is built on one."""
    base = getattr(config, BASE, None)
    return base if isinstance(base, Base) else None


@functools.cache
def is_built_on_another(config: type[Any]) -> bool:
    """Return whether a ``Config`` is that of a method that is built on another one."""
    return typing.get_type_hints(config).get(BASE) is Base


def value_of(config: Config, name: str) -> Any:
    """Return a setting, one of the base by its dotted name; KeyError if there is none."""
    owner, point, setting = name.partition(".")
    if not point:
        return getattr(config, name)
    base = base_of(config)
    if base is None or base.name != owner:
        raise KeyError(name)
    return getattr(base.config, setting)


def freeze(config: type[Config]) -> None:
    """Make a ``Config`` a frozen dataclass, in place, unless its own decorator has done so."""
    if "__dataclass_fields__" not in vars(config):
        dataclass(frozen=True, kw_only=True)(config)


def field_docs(config: type[Config]) -> dict[str, str]:
    """Return the docstring below each field of a ``Config``, those of inherited fields first."""
    docs: dict[str, str] = {}
    for owner in reversed(config.__mro__):
        if dataclasses.is_dataclass(owner):
            docs |= _docs_below(owner)
    return docs


def _docs_below(config: type) -> dict[str, str]:
    """Return the docstrings in a class's own source; empty ones where that cannot be read, as for bytes not UTF-8."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    except (OSError, TypeError, SyntaxError):
        return dict.fromkeys(inspect.get_annotations(config), "")
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for line, following in itertools.pairwise([*body.body, ast.Pass()]):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            docs[line.target.id] = inspect.cleandoc(str(following.value.value)) if is_text else ""  # type: ignore[attr-defined]
    return docs
