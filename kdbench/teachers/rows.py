"""Rows of a teacher cache on disk: .npy files that are written in any order, with a hash of the order they came in."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

NUM_KEPT = 16_384
"""Outputs that are kept in memory before they are written, so that most go to disk beside their neighbours."""


@final
class Rows:
    """A .npy file whose rows are written in any order; it grows up to the last row that was written."""

    def __init__(self, path: Path, like: Tensor, num_rows: int) -> None:
        bits = like.view(bits_of(like.dtype)).numpy()
        descr = np.lib.format.dtype_to_descr(bits.dtype)
        shape = (num_rows, *like.shape[1:])
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
        self._path, self._header, self._row_bytes = path, header.getvalue(), bits[0].nbytes
        self._end = len(self._header) + num_rows * self._row_bytes
        self.hash = hashlib.sha256()
        """Of all rows in the order in which they came."""

    def resume(self, done: int, rows: Callable[[int, int], npt.NDArray[np.int64]], digest: str) -> bool:
        """Return whether the file holds the rows that came first with this hash; the hash then continues from there.

        Parameters
        ----------
        rows
            The rows that came at some places, given by the first and the one behind the last.

        Raises
        ------
        OSError, ValueError, IndexError
            The file is missing or too short.
        """
        if not self._path.is_file():
            return False
        content = np.memmap(self._path, mode="r")
        start = len(self._header)
        num_whole = (len(content) - start) // self._row_bytes
        stored = content[start : start + num_whole * self._row_bytes].reshape(num_whole, self._row_bytes)
        self.hash = hashlib.sha256()
        for first in range(0, done, NUM_KEPT):
            chunk = rows(first, min(first + NUM_KEPT, done))
            ascending = np.argsort(chunk)
            bits = np.empty((len(chunk), self._row_bytes), np.uint8)
            bits[ascending] = stored[chunk[ascending]]
            self.hash.update(bits.data)
        return content[:start].tobytes() == self._header and self.hash.hexdigest() == digest

    @contextlib.contextmanager
    def opened(self, *, new: bool) -> Iterator[None]:
        """Have the file open for writing, without what else than rows is in it."""
        if new:
            self.hash = hashlib.sha256()
            if not self._path.is_file():  # a pipe would be waited for
                self._path.unlink(missing_ok=True)
        with self._path.open("wb" if new else "r+b") as self._file:
            self._file.write(self._header)
            written = self._file.seek(0, os.SEEK_END)
            self._file.truncate(min(written, self._end))
            yield

    def append(self, rows: npt.NDArray[np.int64], values: Tensor) -> None:
        """Write the next rows, those that are neighbours in one go."""
        bits = values.contiguous().view(bits_of(values.dtype)).numpy()
        self.hash.update(bits.data)
        ascending = np.argsort(rows)
        rows, bits = rows[ascending], bits[ascending]
        gaps = np.flatnonzero(np.diff(rows) != 1) + 1
        for start, stop in itertools.pairwise((0, *gaps.tolist(), len(rows))):
            self._file.seek(len(self._header) + int(rows[start]) * self._row_bytes)
            self._file.write(bits[start:stop].data)

    def sync(self) -> None:
        """Have what was written reach the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())


def bits_of(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which values are stored: NumPy has no bfloat16."""
    return torch.int16 if dtype == torch.bfloat16 else dtype
