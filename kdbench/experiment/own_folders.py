"""Folders with a user's own methods, networks and protocols, as options and environment variables name them."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Literal

from kdbench.errors import UserError

METHODS = "KDBENCH_METHODS"
"""The environment variable: folders of methods, separated as in ``PATH``."""
OWN = "KDBENCH_OWN"
"""The environment variable: folders that hold such folders, ``methods``, ``networks`` and ``protocols``."""
Kind = Literal["methods", "networks", "protocols"]
KINDS: tuple[Kind, ...] = ("methods", "networks", "protocols")


def found_with(option: str, variable: str) -> str:
    """Return how folders of the user's own are named on the command line, and where there is none."""
    return f"found with 'kdbench {option} DIR', in Python with the environment variable {variable}"


def named(variable: str) -> tuple[Path, ...]:
    """Return the folders that a variable names now, each once."""
    return _named(os.environ.get(variable, ""), os.getcwd())  # noqa: PTH109 - called often


def add(variable: str, more: Iterable[Path]) -> None:
    """Add folders to those that a variable names, for this process and those that it starts."""
    if folders := [str(path) for path in (*named(variable), *(path.absolute() for path in more))]:
        os.environ[variable] = os.pathsep.join(folders)


def folders_of(kind: Kind) -> tuple[Path, ...]:
    """Return the folders of the user's own methods, networks or protocols that are named now.

    A checkout may be among them, for a network of the user's: kdbench's own methods are not found a second time.
    """
    inside = (folder / kind for folder in named(OWN))
    plain = named(METHODS) if kind == "methods" else ()
    folders = (*plain, *(folder for folder in inside if folder.is_dir()))
    return tuple(dict.fromkeys(folder for folder in folders if not is_of_kdbench(folder)))


@functools.lru_cache(maxsize=8)
def is_of_kdbench(folder: Path) -> bool:
    """Return whether a folder is the one of kdbench's own methods."""
    return folder.name == "methods" and folder.is_dir() and folder.samefile(str(resources.files("kdbench.methods")))


def check() -> None:
    """Raise UserError where a folder that is named does not exist, or holds nothing that is looked for."""
    for folder in named(METHODS):
        if not folder.is_dir():
            raise UserError(
                f"folder {folder} does not exist: --methods and {METHODS} name folders of methods, and 'kdbench new "
                "NAME --dir DIR' makes DIR/methods"
            )
    for folder in named(OWN):
        if not any((folder / kind).is_dir() for kind in KINDS):
            is_none = "is no folder" if folder.exists() else "does not exist"
            lack = "has no folder methods, networks or protocols" if folder.is_dir() else is_none
            raise UserError(
                f"folder {folder} {lack}: --own and {OWN} name folders with your own methods/, networks/ and "
                "protocols/, and 'kdbench new network NAME --dir DIR' makes one"
            )


@functools.lru_cache(maxsize=8)
def _named(folders: str, base: str) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(Path(base, Path(name).expanduser()) for name in folders.split(os.pathsep) if name))
