"""Find code by name: kdbench's own, files in a user's folders, and modules of installed packages."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import final

from kdbench.errors import UserError
from kdbench.experiment import own_folders
from kdbench.utils.names import squeeze
from kdbench.utils.reading import Unreadable, read_bytes

_NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = ("method", "network", "protocol")
"""What ``kdbench new`` and ``kdbench validate`` take for a kind: no names."""
_DIGEST = "__kdbench_digest__"


@final
@dataclass(frozen=True, slots=True)
class Kind:
    """What users write code for."""

    word: str
    """``method`` or ``network``."""
    folders: own_folders.Kind
    group: str
    """The group of entry points in which installed packages name modules."""
    package: str
    """The module whose submodules the files are: its path is the folders."""

    @property
    def name_rule(self) -> str:
        """What names may be."""
        return f"the name of a {self.word} is a lower-case letter, then lower-case letters, digits and _"

    def flaw_of_name(self, name: str) -> str:
        """Return why there can be no code of this name; empty if there can."""
        if name in RESERVED:
            return f"{name} is a word of 'kdbench new' and 'kdbench validate'"
        return "" if _NAME.fullmatch(name) else self.name_rule

    def refresh(self) -> None:
        """Forget modules of folders that are not named any more."""
        package = importlib.import_module(self.package)
        named = [str(folder) for folder in own_folders.folders_of(self.folders)]
        if named != package.__path__:
            package.__path__[:] = named
            for module in [name for name in sys.modules if name.startswith(f"{self.package}.")]:
                del sys.modules[module]


@final
@dataclass(frozen=True, slots=True)
class CodeSource:
    """Where one method or network comes from."""

    kind: Kind
    name: str
    origin: str
    """``kdbench VERSION``, ``file NAME.py`` or ``package NAME VERSION``."""
    module_name: str
    own: bool
    """Whether it is a user's, not one of kdbench."""
    file: Path | None = None
    """Its file, if it lies in a user's folder."""

    @property
    def where(self) -> str:
        """Place of its code, for messages."""
        return str(self.file) if self.file else f"{self.module_name} of {self.origin}"

    @property
    def text(self) -> str:
        """Origin, and for a user's code its hash, as records hold it."""
        if not self.own:
            return self.origin
        return f"{self.origin} sha256:{vars(self.module())[_DIGEST][:8]}"

    @property
    def recipe_file(self) -> Path:
        """Path of a recipe file beside its module; the file need not exist."""
        file = self.file or module_file(self.module_name) or Path(self.module().__file__ or "")
        return file.with_suffix(".toml")

    def changed_since(self, text: str) -> bool:
        """Return whether a user's code was other code when a record or a state was made."""
        return self.own and "sha256:" in text and text.partition("sha256:")[2] != self.text.partition("sha256:")[2]

    def place_of(self, error: BaseException) -> str:
        """Return in one line where in its file an error was raised, and which."""
        lines = self._lines(error)
        if isinstance(error, SyntaxError) and error.filename == str(self.file):
            lines.append(error.lineno)
        line = f", line {lines[-1]}" if lines else ""
        text = textwrap.shorten(error.msg if isinstance(error, SyntaxError) else str(error), 300)
        return f"{self.where}{line}: {type(error).__name__}{f': {text}' if text else ''}"

    def raised(self, error: BaseException) -> bool:
        """Return whether an error passed through its file."""
        return bool(self._lines(error))

    def module(self) -> ModuleType:
        """Import its module.

        Raises
        ------
        UserError
            A user's file cannot be imported; the message says what to do.
        """
        if not self.own:
            return importlib.import_module(self.module_name)
        if flaw := self.kind.flaw_of_name(self.name):
            raise self.unusable(f"{self.where}: {flaw}; rename it, or let it begin with _ if it is no {self.kind.word}")
        self.kind.refresh()
        if self.module_name not in sys.modules:
            importlib.invalidate_caches()  # its file may be younger than the last look into its folder
        try:
            module = importlib.import_module(self.module_name)
        except (Exception, SystemExit) as error:
            raise self.unusable(f"{self.place_of(error)}; fix that, then type the same command again") from error
        if _DIGEST not in vars(module):
            vars(module)[_DIGEST] = self._digest(Path(module.__file__ or ""))
        return module

    def unusable(self, reason: str) -> UserError:
        """Return the error of code that cannot be used."""
        return UserError(f"{self.kind.word} {self.name} cannot be used: {reason}")

    def _lines(self, error: BaseException) -> list[int | None]:
        return [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self.file)]

    def _digest(self, file: Path) -> str:
        """Return the hash of a module's file and of the helpers beside it, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for path in (file, *sorted(file.parent.glob("_*.py"))):
            try:
                digest.update(f"{path.name}\n".encode() + read_bytes(path))
            except Unreadable as error:
                what = f"the record of a {self.kind.word} holds the hash of its helpers"
                raise UserError(f"{path} {error}: {what}") from None
        return digest.hexdigest()


def find_code(
    kind: Kind, built_in: Callable[[], tuple[CodeSource, ...]], key: Callable[[str], str] = squeeze
) -> dict[str, CodeSource]:
    """Return the source of all code of a kind, by name.

    Parameters
    ----------
    built_in
        Returns that of kdbench.
    key
        Reduces a spelling: two names of one key are one name.

    Raises
    ------
    UserError
        A folder does not exist, or two have one name.
    """
    own_folders.check()
    folders = own_folders.folders_of(kind.folders)
    changed = tuple(folder.stat().st_mtime_ns for folder in folders)
    return _collected(kind, built_in, key, folders, changed, tuple(sys.path))


@functools.lru_cache(maxsize=2)
def _collected(
    kind: Kind,
    built_in: Callable[[], tuple[CodeSource, ...]],
    key: Callable[[str], str],
    folders: tuple[Path, ...],
    changed: tuple[int, ...],  # noqa: ARG001 - part of the key
    path: tuple[str, ...],
) -> dict[str, CodeSource]:
    sources: dict[str, CodeSource] = {}
    for source in (*built_in(), *_in_folders(kind, folders), *installed(kind, path)):
        other = sources.setdefault(key(source.name), source)
        if other != source:
            whose = "another" if other.own else "kdbench's own"
            raise UserError(
                f"{kind.word} {source.name} of {source.where} has the name of {whose}, {other.name} of {other.where}: "
                "rename one of them"
            )
    return {source.name: source for source in sources.values()}


def _in_folders(kind: Kind, folders: tuple[Path, ...]) -> Iterator[CodeSource]:
    helpers: dict[str, Path] = {}
    for folder in folders:
        for helper in folder.glob("_*.py"):
            if helpers.setdefault(helper.name, helper) != helper:
                raise UserError(f"{helper} and {helpers[helper.name]} have one name: rename one of them")
        for file in sorted(folder.glob("[!_.]*.py")):
            yield CodeSource(kind, file.stem, f"file {file.name}", f"{kind.package}.{file.stem}", True, file)


@functools.lru_cache(maxsize=2)
def installed(kind: Kind, path: tuple[str, ...]) -> tuple[CodeSource, ...]:
    """Return the sources that installed packages name, of the packages in ``path``, which is that of imports."""
    sources: dict[tuple[str, str], CodeSource] = {}
    for package in metadata.distributions(path=list(path)):
        for point in package.entry_points.select(group=kind.group):
            origin = f"package {package.name} {package.version}"
            source = CodeSource(kind, point.name, origin, point.module, own=True)
            sources.setdefault((package.name, point.name), source)  # the first on the path is the one that is imported
    return tuple(sources.values())


def module_file(name: str) -> Path | None:
    """Return the file of a module, of which nothing is run, nor of its packages; None if it is not found."""
    package, *names = name.split(".")
    spec = importlib.util.find_spec(package)
    for each in names:
        spec = PathFinder.find_spec(each, spec.submodule_search_locations or []) if spec else None
    return Path(spec.origin) if spec and spec.origin else None
