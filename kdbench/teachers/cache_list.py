"""Caches of teacher outputs on disk: listed, and deleted where nobody uses them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from kdbench.teachers.cache_folder import FOLDER, Identity, lock_use, read_identity
from kdbench.teachers.segments import DAMAGE, PARTIAL, SEGMENT, pairs_of
from kdbench.utils.files import explain_os_errors, paths_in
from kdbench.utils.leases import Busy, Leases
from kdbench.utils.reading import read_json
from kdbench.utils.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """A cache on disk."""

    name: str
    identity: Identity | None
    """None where its description cannot be read."""
    segments: int
    pairs: int
    parts: tuple[str, ...]
    bytes: int
    unfinished: int
    """Builds that were begun and are not whole."""


def list_caches(runs: Path) -> list[CacheInfo]:
    """Return all caches below a folder of runs."""
    return [_info(folder) for folder in paths_in(runs / FOLDER, "*/")]


def _info(folder: Path) -> CacheInfo:
    segments = [path.parent for path in paths_in(folder, f"*/{SEGMENT}") if path.exists()]
    whole = [segment for segment in segments if not segment.name.endswith(PARTIAL)]
    parts: set[str] = set()
    pairs = 0
    for segment in whole:
        with contextlib.suppress(*DAMAGE):
            described = read_json(segment / SEGMENT)
            parts |= described["dtypes"].keys()
            pairs += len(pairs_of(segment, described))
    return CacheInfo(
        name=folder.name,
        identity=read_identity(folder),
        segments=len(whole),
        pairs=pairs,
        parts=tuple(sorted(parts)),
        bytes=_size(folder),
        unfinished=len(paths_in(folder, f"*{PARTIAL}")),
    )


def remove_cache(
    runs: Path, name: str, *, unfinished_only: bool = False, scheduler: Scheduler | None = None
) -> int | None:
    """Delete a cache, or only its unfinished builds; return the bytes that are free now, None if it is in use.

    Raises
    ------
    UserError
        It must not be deleted, for example because it belongs to somebody else.
    """
    folder = runs / FOLDER / name
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(Leases(scheduler)).hold(folder)
            if not unfinished_only:
                descriptor = lock_use(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if descriptor is not None:
                    held.callback(os.close, descriptor)
        except (Busy, BlockingIOError):
            return None
        doomed = paths_in(folder, f"*{PARTIAL}") if unfinished_only else [folder]
        freed = sum(map(_size, doomed))
        with explain_os_errors(folder, "ask its owner"):
            for path in doomed:
                shutil.rmtree(path)
        return freed


def _size(folder: Path) -> int:
    """Bytes of all files below a folder, some of which may vanish meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for file in (Path(place, name) for name in names):
            with contextlib.suppress(OSError):
                total += file.stat().st_size if file.is_file() else 0
    return total
