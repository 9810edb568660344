"""Segments of a teacher cache on disk: written beside their place, moved there when whole, then only read.

A segment holds a teacher's outputs for a set of pairs of image and view, as plain NumPy files::

    SEGMENT/segment.json  pairs.npy  logits.npy  penultimate.npy

Legend: ``P`` pairs.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdbench.net import Part
from kdbench.utils.files import explain_os_errors, write_json

Pairs = npt.NDArray[np.int64]
SEGMENT, PARTIAL = "segment.json", ".partial"
PAIRS, _PROGRESS = "pairs.npy", "progress.json"
_NUM_KEPT = 16_384
"""Outputs that are kept in memory before they are written, so that most go to disk beside their neighbours."""


@final
class Segment:
    """Immutable outputs for a set of pairs, memory-mapped.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError, AttributeError
        The files are damaged or missing.
    """

    def __init__(self, folder: Path) -> None:
        described = json.loads((folder / SEGMENT).read_bytes())
        self._hashes: dict[str, str] = described["sha256"]
        self._folder = folder
        # Mapped copy-on-write: PyTorch wants memory that it may write to; nothing ever does.
        self.pairs: Pairs = np.load(folder / PAIRS, mmap_mode="c")
        self.parts: dict[Part, Tensor] = {
            part: torch.from_numpy(np.load(folder / f"{part}.npy", mmap_mode="c")).view(getattr(torch, dtype))
            for part, dtype in described["dtypes"].items()
        }
        if any(len(values) != len(self.pairs) for values in self.parts.values()):
            raise ValueError("its files have different lengths")

    def find(self, pairs: Pairs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Rows of pairs, and which of them are there at all; fastest for pairs in ascending order."""
        rows = np.searchsorted(self.pairs, pairs).clip(max=len(self.pairs) - 1)
        return rows, self.pairs[rows] == pairs

    def verify(self) -> None:
        """Raise ValueError unless every file is as it was written."""
        for name, digest in self._hashes.items():
            if _sha256(self._folder / name) != digest:
                raise ValueError(f"{name} is not what was written")


@final
class SegmentWriter(contextlib.AbstractContextManager["SegmentWriter"]):
    """An unfinished segment. One that was interrupted is taken up again where it was.

    Parameters
    ----------
    folder
        Of the cache.
    pairs
        All pairs of the segment, ascending.
    order
        Rows of pairs in the order in which their outputs come, int64 ``(P,)``. A segment that was begun in another
        order is another one.
    sample
        Outputs of some pairs, by part, on the CPU: they give types and widths.
    """

    def __init__(self, folder: Path, pairs: Pairs, order: npt.NDArray[np.int64], sample: Mapping[Part, Tensor]) -> None:
        digest = hashlib.sha256(",".join(sample).encode() + pairs.tobytes() + order.tobytes())
        name = digest.hexdigest()[:16]
        self.path = folder / f"{name}{PARTIAL}"
        self.pairs, self._order, self._sample = pairs, order, sample
        self._place = folder / name
        progress = self.path / _PROGRESS
        self.done = int(json.loads(progress.read_bytes())["done"]) if progress.exists() else 0
        """Pairs that have been added."""
        self._files: dict[Part, _Rows] = {}
        self._kept: list[Mapping[Part, Tensor]] = []
        self._num_written = self.done

    @property
    def bytes_left(self) -> int:
        """Disk space that is still to be filled."""
        width = sum(values.shape[1] * values.element_size() for values in self._sample.values())
        return (len(self.pairs) - self.done) * width + (0 if self.done else self.pairs.nbytes)

    def __enter__(self) -> SegmentWriter:
        with explain_os_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.done:
                np.save(self.path / PAIRS, self.pairs)
            for part, values in self._sample.items():
                self._files[part] = _Rows(self.path / f"{part}.npy", values, len(self.pairs), new=not self.done)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def append(self, chunk: Mapping[Part, Tensor]) -> None:
        """Add the outputs of the next pairs, on the CPU."""
        self._kept.append(chunk)
        self.done += len(next(iter(chunk.values())))
        if self.done - self._num_written >= _NUM_KEPT:
            self._write()

    def note(self) -> None:
        """Make sure that what has been added is still there after an interruption."""
        self._write()
        with explain_os_errors(self.path):
            for file in self._files.values():
                file.sync()
        write_json(self.path / _PROGRESS, {"done": self.done})

    def finish(self) -> None:
        """Make the segment visible, whole."""
        assert self.done == len(self.pairs)
        self.note()
        with explain_os_errors(self.path):
            hashes = {name: _sha256(self.path / name) for name in (PAIRS, *(f"{part}.npy" for part in self._sample))}
            dtypes = {part: str(values.dtype).removeprefix("torch.") for part, values in self._sample.items()}
            write_json(self.path / SEGMENT, {"dtypes": dtypes, "sha256": hashes})
            (self.path / _PROGRESS).unlink()
            self.path.rename(self._place)

    def _write(self) -> None:
        """Write what is kept."""
        rows = self._order[self._num_written : self.done]
        ascending = np.argsort(rows)
        with explain_os_errors(self.path):
            for part, file in self._files.items() if self._kept else ():
                values = torch.cat([chunk[part] for chunk in self._kept])
                file.write(rows[ascending], values[torch.from_numpy(ascending)])
        self._kept.clear()
        self._num_written = self.done


@final
class _Rows:
    """A .npy file whose rows are written in any order; it grows up to the last row that was written."""

    def __init__(self, path: Path, like: Tensor, num_rows: int, *, new: bool) -> None:
        bits = like.view(_bits(like.dtype)).numpy()
        self._file = path.open("wb" if new else "r+b")
        descr = np.lib.format.dtype_to_descr(bits.dtype)
        shape = (num_rows, *like.shape[1:])
        np.lib.format.write_array_header_1_0(self._file, {"descr": descr, "fortran_order": False, "shape": shape})
        self._start, self._row_bytes = self._file.tell(), bits[0].nbytes
        written = self._file.seek(0, os.SEEK_END)
        self._file.truncate(min(written, self._start + num_rows * self._row_bytes))

    def write(self, rows: npt.NDArray[np.int64], values: Tensor) -> None:
        """Write rows, ascending; those that follow each other in one go."""
        bits = values.contiguous().view(_bits(values.dtype)).numpy()
        gaps = np.flatnonzero(np.diff(rows) != 1) + 1
        for start, stop in itertools.pairwise((0, *gaps.tolist(), len(rows))):
            self._file.seek(self._start + int(rows[start]) * self._row_bytes)
            self._file.write(bits[start:stop].data)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _bits(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which values are stored: NumPy has no bfloat16."""
    return torch.int16 if dtype == torch.bfloat16 else dtype


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
