"""Find methods: those of kdbench, those in a user's folders, and those of installed packages."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Mapping
from importlib import metadata
from types import ModuleType
from typing import Any

from kdbench.config import BASE, Base, Config, base_of, is_built_on_another
from kdbench.errors import UserError
from kdbench.experiment import own_folders
from kdbench.experiment.beside_code import METHOD
from kdbench.experiment.own_code import CodeSource, find_code
from kdbench.method import Method
from kdbench.utils.names import find_name
from kdbench.utils.values import shown

_PACKAGE = "kdbench.methods"
_OLD_READS = ("teacher_reads", "student_reads", "needs", "own_needs", "pretraining_needs", "all_needs")
"""Names by which methods once said what they read."""
_HIDDEN = frozenset({"name", "version"})
"""Beside these, settings stand in a cell's identity."""
_OLD_HELPERS = "kdbench.methods.ce"
"""Module that once held the functions of ``kdbench.functional``."""


def method_sources() -> dict[str, CodeSource]:
    """Return the source of every method, by name.

    Raises
    ------
    UserError
        A folder does not exist, or two methods have one name.
    """
    sources = find_code(METHOD, _built_in)
    return {name: sources[name] for name in sorted(sources)}


def _built_in() -> tuple[CodeSource, ...]:
    origin = f"kdbench {metadata.version('kdbench')}"
    modules = pkgutil.iter_modules(importlib.import_module(_PACKAGE).__path__)
    names = [module.name for module in modules if not module.name.startswith("_")]
    return tuple(CodeSource(METHOD, name, origin, f"{_PACKAGE}.{name}", own=False) for name in names)


def _methods_of(module: ModuleType) -> list[type[Method]]:
    """Return the methods that a module itself defines; an abstract class is none, nor is one that another extends."""
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    leaves = [
        value for value in classes if not any(other is not value and issubclass(other, value) for other in classes)
    ]
    return [value for value in dict.fromkeys(leaves) if not inspect.isabstract(value)] or leaves


def _flaw_of_candidates(candidates: list[type[Method]]) -> str:
    """Return why a file without ``METHOD`` does not show which class is the method."""
    if not candidates:
        return (
            "it defines no class that inherits from kdbench.method.Method: write one, or let its name begin with _ if "
            "it is no method"
        )
    names = ", ".join(candidate.__name__ for candidate in candidates)
    return (
        f"it defines the methods {names}: end it with METHOD = {candidates[-1].__name__}, or move all but one elsewhere"
    )


@functools.cache
def _flaw(method: object) -> str | None:
    """Return why an object cannot serve as a method; None if it can."""
    if not (isinstance(method, type) and issubclass(method, Method)):
        return f"its METHOD is {method!r}: it must be a class that inherits from kdbench.method.Method"
    if missing := sorted(method.__abstractmethods__):
        return f"{method.__name__} has no {', '.join(missing)}: define it, as kdbench.method.Method describes it"
    return _flaw_of_reads(method) or _flaw_of_settings(method)


def _flaw_of_settings(method: type[Method]) -> str | None:
    """Return what is wrong with a method's settings, or with a hook that looks at them; None if nothing is."""
    try:
        config = method.Config()
    except (TypeError, ValueError) as error:
        return f"{method.__name__}.Config() fails, {error}: give every field a default that is allowed"
    if hidden := sorted(_HIDDEN & {field.name for field in dataclasses.fields(method.Config)}):
        return (
            f"{method.__name__} has a setting {' and a setting '.join(hidden)}, which is how records call the name and "
            "the VERSION of the method: rename the setting"
        )
    for hook in (method.views, method.all_reads, method.pretraining, method.term_groups):
        try:
            hook(config)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
            return f"{method.__name__}.{hook.__name__}() fails with the default settings, {reason}: mend it"
    return None


def _flaw_of_reads(method: type[Method]) -> str | None:
    """Return why it is unclear what a method reads; None if it is clear."""
    if old := sorted(name for name in _OLD_READS if name in dir(method)):
        return (
            f"{method.__name__} has {', '.join(old)}, which kdbench does not call any more: write READS = "
            'Reads(student={"logits", ...}, teacher={...}), with from kdbench.method import Reads, and override '
            "reads(cls, config, phase) where settings or pre-training decide"
        )
    if missing := [name for name in ("FAMILY", "READS") if getattr(method, name, None) is None]:
        return f"{method.__name__} has no {' and no '.join(missing)}: set it in the class"
    return None


def method_names() -> list[str]:
    """Return the names of all methods, those of users included."""
    return list(method_sources())


def method_name(name: str) -> str:
    """Return the registered spelling of a method's name."""
    remedy = "'kdbench list methods' names all"
    if not own_folders.folders_of("methods"):
        remedy += f"; one of your own is {own_folders.found_with('--own', own_folders.OWN)}"
    return find_name("method", name, method_names(), remedy)


def method_source(name: str) -> CodeSource:
    """Return where a method comes from, by its registered name.

    Raises
    ------
    UserError
        There is no such method here, as where a record is of somebody else's.
    """
    sources = method_sources()
    return sources[name] if name in sources else sources[method_name(name)]


def load_method(name: str) -> type[Method]:
    """Import a method by its registered name.

    Raises
    ------
    UserError
        A user's file cannot be imported, or has no usable method; the message says what to do.
    """
    source = method_source(name)
    module = _module(source)
    candidates = [vars(module)["METHOD"]] if "METHOD" in vars(module) else _methods_of(module)
    if flaw := _flaw(candidates[0]) if len(candidates) == 1 else _flaw_of_candidates(candidates):
        raise source.unusable(f"{source.where}: {flaw}")
    return typing.cast("type[Method]", candidates[0])


def load_base(name: str, config: Config | None = None) -> Base:
    """Return a method for another one to be built on, by default with its default settings.

    Raises
    ------
    UserError
        There is no such method, it cannot be used, or it is built on another itself.
    """
    name = method_name(name)
    method = load_method(name)
    if is_built_on_another(method.Config):  # a record holds the code of one base
        raise UserError(f"method {name} is built on another one itself: choose one that is not")
    return Base(name, method, config or method.Config())


def method_version(name: str, settings: Mapping[str, Any]) -> int:
    """Return a method's VERSION with that of its base added, if it has one: whichever is raised, this is.

    Parameters
    ----------
    settings
        Plain values, as a record has them.
    """
    method = load_method(name)
    base = base_of(method.Config())
    if base is None:
        return method.VERSION
    owner = _base_name(base, settings)
    own = {key.removeprefix(f"{owner}."): value for key, value in settings.items() if key.startswith(f"{owner}.")}
    return method.VERSION + method_version(owner, own)


def wraps_student(name: str, settings: Mapping[str, Any]) -> bool:
    """Return whether a method makes another network of the student; one that is built on another has that one's."""
    method = load_method(name)
    if base := base_of(method.Config()):
        method = load_method(_base_name(base, settings))
    return method.wrap is not Method.wrap


def _base_name(default: Base, settings: Mapping[str, Any]) -> str:
    name = settings.get(BASE, default.name)
    if not isinstance(name, str):
        raise UserError(f"{BASE} must be the name of a method, not {shown(name)}")
    return name


def _module(source: CodeSource) -> ModuleType:
    try:
        return source.module()
    except UserError as error:
        cause = error.__cause__
        if not (isinstance(cause, ImportError) and cause.name == _OLD_HELPERS):
            raise
        raise source.unusable(
            f"{source.place_of(cause)}; import losses from kdbench.functional instead, and weight, temperature, "
            "positive or fraction from kdbench.method, whose fields are checked without check_settings"
        ) from cause
