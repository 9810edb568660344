"""Segments of a teacher cache on disk: written beside their place, moved there when whole, then only read.

A segment holds a teacher's outputs for a set of pairs of image and view, as plain NumPy files::

    SEGMENT/segment.json  pairs.npy  logits.npy  penultimate.npy

A segment of a pool has no ``pairs.npy``: its description holds the numbers of images and crops and the rotations, from
which the row of a pair is computed.

When a segment is opened, its files have the sizes that its description implies, and their hashes. Files of a pool can
have hundreds of gigabytes, so their hashes are compared when they are written and on request (`Segment.verify`), but
not each time that they are opened.

Legend: ``P`` pairs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from kdbench.errors import UserError
from kdbench.experiment.rule_groups import MAX_POOL
from kdbench.net import PARTS, Part
from kdbench.teachers.pairs import PairSet, PoolPairs
from kdbench.teachers.places import BuildBatches
from kdbench.teachers.rows import NUM_KEPT, Rows, bits_of
from kdbench.utils.files import explain_os_errors, sha256_of, sweep, write_atomic, write_json
from kdbench.utils.reading import Unreadable, read_json
from kdbench.utils.text import one_line
from kdbench.utils.values import whole_number

SEGMENT, PARTIAL = "segment.json", ".partial"
PAIRS, _PROGRESS = "pairs.npy", "progress.json"
DAMAGE = (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError)
"""What reading files that are not as they were written may raise."""


def mapped(path: Path) -> Any:
    """Map an array of a segment for reading; a pipe, which would be waited for, is none."""
    if not path.is_file():
        raise ValueError(f"{path.name} is not there, or no regular file")
    return np.load(path, mmap_mode="r")


def pairs_of(folder: Path, described: Mapping[str, Any]) -> PairSet:
    """Return the pairs of a segment, given its description.

    Raises
    ------
    ValueError, KeyError, TypeError, OSError
        It is not what was written.
    """
    if "pool" not in described:
        pairs: PairSet = mapped(folder / PAIRS)
        return pairs
    pool = described["pool"]
    rotations = tuple(whole_number(turns, 0, 3) for turns in pool["rotations"])
    if not rotations or list(rotations) != sorted(set(rotations)):
        raise ValueError(f"{SEGMENT} names rotations that there are not")
    return PoolPairs(whole_number(pool["images"], 1), whole_number(pool["crops"], 1, MAX_POOL), rotations)


@final
class Segment:
    """Immutable outputs for a set of pairs, memory-mapped.

    Raises
    ------
    ValueError
        The files are not what was written, or one is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._open(folder)
        except DAMAGE as error:
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise ValueError(f"{kind}{one_line(error)}") from None

    def _open(self, folder: Path) -> None:
        try:
            described = read_json(folder / SEGMENT)
        except Unreadable as error:
            raise ValueError(f"{SEGMENT} {error}") from None
        dtypes: dict[Part, str] = described["dtypes"]
        if not dtypes.keys() <= PARTS:
            raise ValueError(f"{SEGMENT} names parts that there are not")
        self.pairs = pairs_of(folder, described)
        """All pairs, ascending."""
        is_listed = not isinstance(self.pairs, PoolPairs)
        names = (*([PAIRS] if is_listed else []), *(f"{part}.npy" for part in dtypes))
        arrays = {name: mapped(folder / name) for name in names}
        self._hashes = {folder / name: described["sha256"][name] for name in names}
        for name, array in arrays.items():
            # A file that grew by terabytes is told by its size, long before its hash.
            if (folder / name).stat().st_size != array.offset + array.nbytes:
                raise ValueError(f"{name} is not what was written")
        if is_listed:
            self.verify()
        self.parts: dict[Part, Tensor] = {}
        for part, name in dtypes.items():
            dtype = getattr(torch, name)
            bits = _tensor(arrays[f"{part}.npy"])
            if bits.dtype != bits_of(dtype) or len(bits) != len(self.pairs):
                raise ValueError(f"{part}.npy is not what {SEGMENT} describes")
            self.parts[part] = bits.view(dtype)

    def verify(self) -> None:
        """Compare the hashes of all files.

        Raises
        ------
        ValueError
            A file is not what was written.
        """
        for path, digest in self._hashes.items():
            if sha256_of(path) != digest:
                raise ValueError(f"{path.name} is not what was written")


def _tensor(values: Any) -> Tensor:
    """Return a tensor of a map.

    PyTorch warns of memory that it must not write to; nothing ever does. In its place a map that is copied when it is
    written to would be refused by the system where it is larger than the machine's memory.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(values)


@final
class SegmentWriter(contextlib.AbstractContextManager["SegmentWriter"]):
    """An unfinished segment. One that was interrupted is resumed, if its files hold what its notes say.

    The notes are how many pairs are done, and a hash of each file's rows in the order in which they came. Files that
    were copied at another time than the notes, or changed since, do not fit them: then the segment is begun anew.

    Parameters
    ----------
    folder
        Of the cache.
    pairs
        All pairs of the segment, ascending.
    batches
        The order in which their outputs come. A segment that was begun in another order is another one.
    sample
        Outputs of some pairs, by part, on the CPU: they give types and widths.

    Raises
    ------
    UserError
        What is left of a damaged segment cannot be deleted.
    """

    def __init__(self, folder: Path, pairs: PairSet, batches: BuildBatches, sample: Mapping[Part, Tensor]) -> None:
        digest = hashlib.sha256(",".join(sample).encode() + batches.key())
        name = digest.hexdigest()[:16]
        self.path = folder / f"{name}{PARTIAL}"
        self.pairs, self._rows, self._sample = pairs, batches.rows, sample
        self._pairs_hash: str | None = None
        """Of the file that lists the pairs, where there is one."""
        self._place = folder / name
        self._files = {
            part: Rows(self.path / f"{part}.npy", values, len(pairs)) for part, values in sorted(sample.items())
        }
        self.done = self._noted()
        """Pairs that have been added."""
        if not self.done:
            with explain_os_errors(self.path):
                _remove(self.path)
        self._kept: list[Mapping[Part, Tensor]] = []
        self._num_written = self.done
        self._open = contextlib.ExitStack()

    def _noted(self) -> int:
        """Return how many pairs are stored as the notes say; 0 where files and notes do not fit."""
        try:
            notes = read_json(self.path / _PROGRESS)
            done = whole_number(notes["done"], 1, len(self.pairs))
            fits = [file.resume(done, self._rows, notes["sha256"][part]) for part, file in self._files.items()]
        except DAMAGE:
            return 0
        return done if all(fits) else 0

    @property
    def bytes_left(self) -> int:
        """Disk space that is still to be filled."""
        width = sum(values.shape[1] * values.element_size() for values in self._sample.values())
        listed = 0 if self.done or isinstance(self.pairs, PoolPairs) else self.pairs.nbytes
        return (len(self.pairs) - self.done) * width + listed

    def __enter__(self) -> SegmentWriter:
        sweep(self.path, held=True)
        if not isinstance(self.pairs, PoolPairs):
            content = io.BytesIO()
            np.save(content, self.pairs)
            write_atomic(self.path / PAIRS, content.getvalue())
            self._pairs_hash = hashlib.sha256(content.getbuffer()).hexdigest()
        with explain_os_errors(self.path), contextlib.ExitStack() as files:
            self.path.mkdir(parents=True, exist_ok=True)
            for file in self._files.values():
                files.enter_context(file.opened(new=not self.done))
            self._open = files.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Closing writes what is in buffers, so it may fail as writing does; an error before it says more.
        with contextlib.suppress(OSError) if kind else explain_os_errors(self.path):
            self._open.close()

    def append(self, chunk: Mapping[Part, Tensor]) -> None:
        """Add the outputs of the next pairs, on the CPU."""
        self._kept.append(chunk)
        self.done += len(next(iter(chunk.values())))
        if self.done - self._num_written >= NUM_KEPT:
            self._write()

    def note(self) -> None:
        """Make sure that what has been added is still there after an interruption."""
        self._write()
        with explain_os_errors(self.path):
            for file in self._files.values():
                file.sync()
        hashes = {part: file.hash.hexdigest() for part, file in self._files.items()}
        write_json(self.path / _PROGRESS, {"done": self.done, "sha256": hashes})

    def finish(self) -> None:
        """Make the segment visible, whole.

        Raises
        ------
        UserError
            The files do not hold what was written to them.
        """
        assert self.done == len(self.pairs)
        self.note()
        with explain_os_errors(self.path):
            names = (*([PAIRS] if self._pairs_hash else []), *(f"{part}.npy" for part in self._files))
            hashes = {name: sha256_of(self.path / name) for name in names}
            if not self._noted() or hashes.get(PAIRS) != self._pairs_hash:
                raise UserError(
                    f"{self.path} was changed by something else while it was being written: type the same command to "
                    "build it again"
                )
            dtypes = {part: str(values.dtype).removeprefix("torch.") for part, values in self._sample.items()}
            described: dict[str, Any] = {"dtypes": dtypes, "sha256": hashes}
            if isinstance(self.pairs, PoolPairs):
                pool = self.pairs
                described["pool"] = {"images": pool.num_images, "crops": pool.num_crops, "rotations": pool.rotations}
            write_json(self.path / SEGMENT, described)
            _remove(self._place)  # no segment, or it would not have been built again
            self.path.rename(self._place)
            (self._place / _PROGRESS).unlink()

    def _write(self) -> None:
        """Write what is kept."""
        rows = self._rows(self._num_written, self.done)
        with explain_os_errors(self.path):
            for part, file in self._files.items() if self._kept else ():
                file.append(rows, torch.cat([chunk[part] for chunk in self._kept]))
        self._kept.clear()
        self._num_written = self.done


def _remove(path: Path) -> None:
    """Delete a folder or file, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
