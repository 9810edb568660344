"""The images of a data set that is decoded while training: names, classes and sizes, and how the bytes are read.

A listing keeps arrays and no Python object an image, so a forked worker shares it and copies nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, final

import numpy as np
import numpy.typing as npt

from kdbench.errors import UserError
from kdbench.utils.text import quoted

Integers = npt.NDArray[np.int64]


class Changed(UserError):
    """An image has another number of bytes than when it was listed."""


class Reader(Protocol):
    """Read the bytes of a listing's images from where they lie."""

    def read(self, index: int, name: str, size: int) -> bytes:
        """Return the bytes of an image: all, or as many as listed; an error is the system's ``OSError``."""


@final
@dataclass(frozen=True, slots=True)
class Files:
    """Images that are files of their own in a folder."""

    root: Path

    def read(self, index: int, name: str, size: int) -> bytes:  # noqa: ARG002 - see `Reader`
        """Return all bytes of a file, which may be more or fewer than were listed."""
        return (self.root / name).read_bytes()


@final
class Listing:
    """The images of one split, sorted by class and then by path; picklable.

    Parameters
    ----------
    names
        Paths relative to the data set's folder, in UTF-8, each ended by a newline.
    labels
        ``(N,)``, class numbers.
    sizes
        ``(N,)``, bytes of each image.
    reader
        Reads the bytes of one image.
    word
        What a user types for this data set, such as ``folder:DIR``.
    """

    def __init__(self, names: bytes, labels: Integers, sizes: Integers, reader: Reader, word: str) -> None:
        self._names = names
        self._ends = np.flatnonzero(np.frombuffer(names, np.uint8) == ord("\n"))
        self.labels, self.sizes = labels, sizes
        self._reader, self._word = reader, word
        assert len(self._ends) == len(labels) == len(sizes)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Memory that the listing takes, in bytes, shared by all processes that decode."""
        return len(self._names) + self._ends.nbytes + self.labels.nbytes + self.sizes.nbytes

    def name(self, index: int) -> str:
        """Return the path of an image, relative to the data set's folder."""
        start = self._ends[index - 1] + 1 if index else 0
        return self._names[start : self._ends[index]].decode()

    def names(self) -> list[str]:
        """Return the paths of all images."""
        return self._names.decode().split("\n")[:-1]

    def read(self, index: int) -> bytes:
        """Return the bytes of an image.

        Raises
        ------
        OSError
            As the system raises it.
        Changed
            Their number is not the listed one.
        """
        name, size = self.name(index), int(self.sizes[index])
        data = self._reader.read(index, name, size)
        if len(data) != size:
            raise Changed(
                f"{name} of {self._word} has {len(data):,} bytes, but {size:,} when it was listed: copy it again, or "
                f"type {quoted('kdbench', 'data', 'index', self._word)} to list what is there now"
            )
        return data

    def parts(self) -> Iterable[bytes]:
        """Return all that a fingerprint covers, as bytes that are equal on every machine."""
        return self._names, self.sizes.astype("<i8").tobytes(), self.labels.astype("<i8").tobytes()


@final
@dataclass(frozen=True, eq=False)
class ImageFiles:
    """A data set of image files: two splits of the same classes."""

    name: str
    """As tables show it."""
    train: Listing
    test: Listing
    class_names: tuple[str, ...]
    """By class number; every class occurs in both splits."""
    kept_in: Path | None = None
    """The file that keeps the listing for later jobs; None where none could be written."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of class names, relative paths, sizes and labels of both splits: 64 hexadecimal digits.

        It depends neither on where the folder lies nor on the order in which a disk lists it.
        """
        digest = hashlib.sha256()
        for part in ("\n".join(self.class_names).encode(), *self.train.parts(), *self.test.parts()):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.hexdigest()
