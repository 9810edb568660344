"""Keep what a look at a data set's images has shown, so that later jobs need not look at each file again.

The index lies in the data's own folder, so that a copy of the folder has it too, or else in the user's cache folder.
It is trusted as long as its stamps are those of the disk: times of change of the folders (a new, renamed or removed
file changes its folder's) and of tar files. They cost one look a class. A copied folder mostly has other times: then
the names are listed again and one size of each class is looked at, and where all are as before, the index holds.
Not all sizes are looked at again, since every read compares the number of bytes with the listed one. What is not
noticed is a file that was overwritten in place by another of the same size.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from kdbench.data.files.listing import Integers
from kdbench.utils.files import NotWritten, write_atomic
from kdbench.utils.reading import Unreadable, read_bytes

_VERSION = 1
_MOST = 2**34
"""Bytes of the largest index that is read: a hundred million images."""
_RECENT = 2_000_000_000
"""Nanoseconds in which a second change of a folder may leave its time of change as it is."""
CHANGING: Final = -1
"""The stamp of what has changed just now, which is equal to none."""
_ABOVE = (b"\n/", b"\n../", b"/../", b"\n..\n", b"/..\n", b"\0")
"""What no paths that stay in their folder have, each between newlines; a regular expression would take seconds."""


def _none() -> Integers:
    return np.empty(0, np.int64)


@final
@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """The images of one split, sorted by class and then by path."""

    names: bytes
    """Relative paths in UTF-8, each ended by a newline."""
    labels: Integers
    """``(N,)``"""
    sizes: Integers = field(default_factory=_none)
    """``(N,)``, bytes; empty as long as only the names have been looked at."""
    offsets: Integers = field(default_factory=_none)
    """``(N,)``, where an image begins in its tar file; empty for other images."""


@final
@dataclass(frozen=True, eq=False, slots=True)
class Index:
    """The images of both splits."""

    class_names: tuple[str, ...]
    train: Split
    test: Split
    stamps: Mapping[str, int]
    """What had to stay as it was: times of change by path, and the like."""

    @property
    def splits(self) -> tuple[Split, Split]:
        """Both splits, training images first."""
        return self.train, self.test

    def is_fresh(self, stamps: Mapping[str, int]) -> bool:
        """Return whether nothing has changed, by the stamps of now."""
        return self.stamps == stamps and CHANGING not in stamps.values()


def stamp(nanoseconds: int) -> int:
    """Return the stamp of a time of change."""
    return nanoseconds if nanoseconds < time.time_ns() - _RECENT else CHANGING


def places(kind: str, root: Path) -> list[Path]:
    """Return the files that may keep the index of a folder, in the order in which they are tried."""
    return [root / f".kdbench-{kind}.npz", *place_of_user(kind, os.fsdecode(root.resolve()))]


def place_of_user(kind: str, where: str) -> list[Path]:
    """Return the file in the user's cache folder that may keep an index; none where there is no home."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    folder = home if home.startswith("/") else os.path.expanduser("~/.cache")  # noqa: PTH111 - as it is without a home
    key = hashlib.sha256(os.fsencode(where)).hexdigest()
    return [Path(folder) / "kdbench" / f"{key}-{kind}.npz"] if folder.startswith("/") else []


def keep(index: Index, paths: Iterable[Path]) -> Path | None:
    """Write an index to the first file that can be written, and return its path; None where none can."""
    data = _packed(index)
    for path in paths:
        try:
            write_atomic(path, data)
        except NotWritten:
            continue
        return path
    return None


def kept(path: Path) -> Index | None:
    """Return the index that a file keeps; None where there is none, or a damaged one."""
    try:
        with np.load(io.BytesIO(read_bytes(path, _MOST)), allow_pickle=False) as archive:
            return _unpacked({name: archive[name] for name in archive.files})
    except (Unreadable, MemoryError, *_DAMAGES):
        return None


_DAMAGES = (
    *(OSError, EOFError, KeyError, ValueError, TypeError, RuntimeError, NotImplementedError),
    *(AttributeError, zipfile.BadZipFile, zlib.error),
)
"""What NumPy raises for a file that is damaged, or that was never an index."""


def _packed(index: Index) -> bytes:
    arrays = {
        "version": np.array(_VERSION),
        "class_names": _text(index.class_names),
        "stamped": _text(index.stamps),
        "stamps": np.array(list(index.stamps.values()), np.int64),
    }
    for name, split in (("train", index.train), ("test", index.test)):
        arrays |= {
            f"{name}_names": np.frombuffer(split.names, np.uint8),
            f"{name}_labels": split.labels,
            f"{name}_sizes": split.sizes,
            f"{name}_offsets": split.offsets,
        }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpacked(arrays: Mapping[str, npt.NDArray[Any]]) -> Index:
    """Return the index that arrays hold; raise ValueError or KeyError where they hold none."""
    if arrays["version"] != _VERSION:
        raise ValueError("the index of another version")
    class_names, stamped = (
        _bytes(arrays[name]).decode(errors="surrogateescape").splitlines() for name in ("class_names", "stamped")
    )
    train, test = (_split(arrays, name, len(class_names)) for name in ("train", "test"))
    stamps = dict(zip(stamped, _integers(arrays["stamps"]).tolist(), strict=True))
    return Index(tuple(class_names), train, test, stamps)


def _split(arrays: Mapping[str, npt.NDArray[Any]], split: str, num_classes: int) -> Split:
    names = _bytes(arrays[f"{split}_names"])
    labels, sizes, offsets = (_integers(arrays[f"{split}_{part}"]) for part in ("labels", "sizes", "offsets"))
    names.decode()
    if (
        any(map((b"\n" + names).__contains__, _ABOVE))
        or not names.count(b"\n") == len(labels) == len(sizes)
        or len(offsets) not in (0, len(labels))
        or not (sizes > 0).all()
        or not (offsets >= 0).all()
        or not np.array_equal(np.unique(labels), np.arange(num_classes))
    ):
        raise ValueError("no listing")
    return Split(names, labels, sizes, offsets)


def _text(lines: Mapping[str, int] | tuple[str, ...]) -> npt.NDArray[np.uint8]:
    return np.frombuffer("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"), np.uint8)


def _bytes(array: npt.NDArray[Any]) -> bytes:
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError("no text")
    return array.tobytes()


def _integers(array: npt.NDArray[Any]) -> Integers:
    if array.dtype != np.int64 or array.ndim != 1:
        raise ValueError("no list of integers")
    return array
