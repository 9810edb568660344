"""Find methods: those of kdbench, those in a user's folders, and those of installed packages."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
import traceback
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import final

from kdbench.errors import UserError
from kdbench.experiment import own_folders, user_methods
from kdbench.method import Method
from kdbench.utils.names import find_name, squeeze
from kdbench.utils.reading import Unreadable, read_bytes

_PACKAGE = "kdbench.methods"
_GROUP = "kdbench.methods"
"""The group of entry points in which installed packages name methods."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")
NAME_RULE = "the name of a method is a lower-case letter, then lower-case letters, digits and _"
_DIGEST = "__kdbench_digest__"
_OLD_READS = ("teacher_reads", "student_reads", "needs", "own_needs", "pretraining_needs", "all_needs")
"""Names by which methods once said what they read."""
_RESERVED = frozenset({"name", "version"})
"""Beside these, settings stand in a cell's identity."""
_OLD_HELPERS = "kdbench.methods.ce"
"""Module that once held the functions of ``kdbench.functional``."""


@final
@dataclass(frozen=True, slots=True)
class MethodSource:
    """Where one method comes from."""

    name: str
    origin: str
    """``kdbench VERSION``, ``file NAME.py`` or ``package NAME VERSION``."""
    module: str
    own: bool
    """Whether it is a user's method, not one of kdbench."""
    file: Path | None = None
    """Its file, if it lies in a user's folder."""

    @property
    def where(self) -> str:
        """Place of its code, for messages."""
        return str(self.file) if self.file else f"{self.module} of {self.origin}"

    @property
    def text(self) -> str:
        """Origin, and for a user's method the hash of its code, as records hold it."""
        if not self.own:
            return self.origin
        return f"{self.origin} sha256:{vars(self._module())[_DIGEST][:8]}"

    @property
    def recipe_file(self) -> Path:
        """Path of its recipe file beside its module; the file need not exist."""
        return (self.file or Path(self._module().__file__ or "")).with_suffix(".toml")

    def load(self) -> type[Method]:
        """Import the method.

        Raises
        ------
        UserError
            A user's file cannot be imported, or has no usable method; the message says what to do.
        """
        module = self._module()
        candidates = [vars(module)["METHOD"]] if "METHOD" in vars(module) else _methods_of(module)
        if flaw := _flaw(candidates[0]) if len(candidates) == 1 else _flaw_of_candidates(candidates):
            raise self._unusable(f"{self.where}: {flaw}")
        return typing.cast("type[Method]", candidates[0])

    def changed_since(self, text: str) -> bool:
        """Return whether a user's method had other code when a record or a state was made."""
        return self.own and "sha256:" in text and text.partition("sha256:")[2] != self.text.partition("sha256:")[2]

    def place_of(self, error: BaseException) -> str:
        """Return in one line where in its file an error was raised, and which."""
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self.file)]
        if isinstance(error, SyntaxError) and error.filename == str(self.file):
            lines.append(error.lineno)
        line = f", line {lines[-1]}" if lines else ""
        text = textwrap.shorten(error.msg if isinstance(error, SyntaxError) else str(error), 300)
        return f"{self.where}{line}: {type(error).__name__}{f': {text}' if text else ''}"

    def _module(self) -> ModuleType:
        if not self.own:
            return importlib.import_module(self.module)
        if not _NAME.fullmatch(self.name):
            raise self._unusable(f"{self.where}: {NAME_RULE}; rename it, or let it begin with _ if it is no method")
        user_methods.refresh()
        if self.module not in sys.modules:
            importlib.invalidate_caches()  # its file may be younger than the last look into its folder
        try:
            module = importlib.import_module(self.module)
        except (Exception, SystemExit) as error:
            remedy = "fix that, then type the same command again"
            if isinstance(error, ImportError) and error.name == _OLD_HELPERS:
                remedy = (
                    "import losses from kdbench.functional instead, and weight, temperature, positive or fraction from "
                    "kdbench.method, whose fields are checked without check_settings"
                )
            raise self._unusable(f"{self.place_of(error)}; {remedy}") from error
        if _DIGEST not in vars(module):
            vars(module)[_DIGEST] = _digest(Path(module.__file__ or ""))
        return module

    def _unusable(self, reason: str) -> UserError:
        return UserError(f"method {self.name} cannot be used: {reason}")


def method_sources() -> dict[str, MethodSource]:
    """Return the source of every method, by name.

    Raises
    ------
    UserError
        A folder does not exist, or two methods have one name.
    """
    own_folders.check()
    folders = own_folders.folders_of("methods")
    return _collected(folders, tuple(folder.stat().st_mtime_ns for folder in folders), tuple(sys.path))


def is_name(name: str) -> bool:
    """Return whether a method may have this name."""
    return _NAME.fullmatch(name) is not None


@functools.lru_cache(maxsize=1)
def _collected(
    folders: tuple[Path, ...],
    changed: tuple[int, ...],  # noqa: ARG001 - part of the key
    path: tuple[str, ...],
) -> dict[str, MethodSource]:
    found: dict[str, MethodSource] = {}
    for source in (*_built_in(), *_in_folders(folders), *_installed(path)):
        other = found.setdefault(squeeze(source.name), source)
        if other != source:
            kind = "another" if other.own else "kdbench's own"
            raise UserError(
                f"method {source.name} of {source.where} has the name of {kind}, {other.name} of {other.where}: "
                "rename one of them"
            )
    return {source.name: source for source in sorted(found.values(), key=lambda source: source.name)}


def _built_in() -> Iterator[MethodSource]:
    origin = f"kdbench {metadata.version('kdbench')}"
    for module in pkgutil.iter_modules(importlib.import_module(_PACKAGE).__path__):
        if not module.name.startswith("_"):
            yield MethodSource(module.name, origin, f"{_PACKAGE}.{module.name}", own=False)


def _in_folders(folders: tuple[Path, ...]) -> Iterator[MethodSource]:
    helpers: dict[str, Path] = {}
    for folder in folders:
        for helper in folder.glob("_*.py"):
            if helpers.setdefault(helper.name, helper) != helper:
                raise UserError(f"{helper} and {helpers[helper.name]} have one name: rename one of them")
        for file in sorted(folder.glob("[!_.]*.py")):
            yield MethodSource(file.stem, f"file {file.name}", f"{user_methods.__name__}.{file.stem}", True, file)


@functools.lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> tuple[MethodSource, ...]:
    found: dict[tuple[str, str], MethodSource] = {}
    for package in metadata.distributions(path=list(path)):
        for point in package.entry_points.select(group=_GROUP):
            source = MethodSource(point.name, f"package {package.name} {package.version}", point.module, own=True)
            found.setdefault((package.name, point.name), source)  # the first on the path is the one that is imported
    return tuple(found.values())


def _digest(file: Path) -> str:
    """Return the hash of a module's file and of the helpers beside it, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in (file, *sorted(file.parent.glob("_*.py"))):
        try:
            digest.update(f"{path.name}\n".encode() + read_bytes(path))
        except Unreadable as error:
            raise UserError(f"{path} {error}: the record of a method holds the hash of its helpers") from None
    return digest.hexdigest()


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
    if hidden := sorted(_RESERVED & {field.name for field in dataclasses.fields(method.Config)}):
        return (
            f"{method.__name__} has a setting {' and a setting '.join(hidden)}, which is how records call the name and "
            "the VERSION of the method: rename the setting"
        )
    for hook in (method.views, method.all_reads, method.pretraining):
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
        remedy += f"; a method of your own is found with --methods DIR or {own_folders.METHODS}"
    return find_name("method", name, method_names(), remedy)


def method_source(name: str) -> MethodSource:
    """Return where a method comes from, by its registered name."""
    return method_sources()[name]


def load_method(name: str) -> type[Method]:
    """Import a method by its registered name."""
    return method_source(name).load()
