"""Caches of teacher outputs on disk: listed, and deleted where nobody uses them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdbench.teachers.cache import FOLDER, IDENTITY, USE_LOCK, Identity
from kdbench.teachers.segments import PAIRS, PARTIAL, SEGMENT
from kdbench.utils.leases import Busy, Leases
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
    return [_info(folder) for folder in sorted((runs / FOLDER).glob("*/")) if folder.is_dir()]


def _info(folder: Path) -> CacheInfo:
    identity: Identity | None = None
    with contextlib.suppress(OSError, ValueError, TypeError):
        values = json.loads((folder / IDENTITY).read_bytes())
        identity = Identity(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})
    whole = [path.parent for path in folder.glob(f"*/{SEGMENT}") if not path.parent.name.endswith(PARTIAL)]
    parts: set[str] = set()
    pairs = 0
    for segment in whole:
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
            parts |= json.loads((segment / SEGMENT).read_bytes())["dtypes"].keys()
            pairs += len(np.load(segment / PAIRS, mmap_mode="r"))
    return CacheInfo(
        name=folder.name,
        identity=identity,
        segments=len(whole),
        pairs=pairs,
        parts=tuple(sorted(parts)),
        bytes=_size(folder),
        unfinished=len(list(folder.glob(f"*{PARTIAL}"))),
    )


def remove_cache(
    runs: Path, name: str, *, unfinished_only: bool = False, scheduler: Scheduler | None = None
) -> int | None:
    """Delete a cache, or only its unfinished builds; return the bytes that are free now, None if it is in use."""
    folder = runs / FOLDER / name
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(Leases(scheduler)).hold(folder)
            if not unfinished_only:
                descriptor = os.open(folder / USE_LOCK, os.O_RDWR | os.O_CREAT, 0o666)
                held.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (Busy, BlockingIOError):
            return None
        doomed = list(folder.glob(f"*{PARTIAL}")) if unfinished_only else [folder]
        freed = sum(map(_size, doomed))
        for path in doomed:
            shutil.rmtree(path)
        return freed


def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
