"""Hold users' methods as submodules: the path of this module is the folders that ``KDBENCH_METHODS`` names.

So a file ``mine.py`` there is the module ``kdbench.experiment.user_methods.mine`` in every process that has the
variable, and ``sys.path`` stays as it is.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from pathlib import Path

FOLDERS = "KDBENCH_METHODS"
"""The environment variable: folders of methods, separated as in ``PATH``."""


def folders() -> tuple[Path, ...]:
    """Return the folders that are named now, each once."""
    return _folders(os.environ.get(FOLDERS, ""), os.getcwd())  # noqa: PTH109 - called often


def add_folders(more: Iterable[Path]) -> None:
    """Add folders in which this process, and those that it starts, find methods."""
    if named := [str(path) for path in (*folders(), *(path.absolute() for path in more))]:
        os.environ[FOLDERS] = os.pathsep.join(named)


@functools.lru_cache(maxsize=8)
def _folders(named: str, base: str) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(Path(base, Path(name).expanduser()) for name in named.split(os.pathsep) if name))


def refresh() -> None:
    """Forget modules of folders that are not named any more."""
    named = [str(folder) for folder in folders()]
    if named != __path__:
        __path__[:] = named
        for module in [name for name in sys.modules if name.startswith(f"{__name__}.")]:
            del sys.modules[module]


__path__ = [str(folder) for folder in folders()]
