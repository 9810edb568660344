"""Find the images of a data set in two tar files, ``train.tar`` and ``val.tar``, as timm's reader labels them.

An image's class is the folder that it lies in, or the tar file inside the tar file: ImageNet's own
``ILSVRC2012_img_train.tar`` holds one for each class. Nothing is unpacked, and reading an image is one read at its
place. The listing is made here and not by timm's reader, which reads the whole file for it, says nothing of members
that it leaves out or of a file that ends early, and takes some GB for a million images.
"""

from __future__ import annotations

import itertools
import os
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np

from kdbench.data.files.index import Index, Split, places, stamp
from kdbench.data.files.listing import Integers
from kdbench.data.files.names import (
    TESTS,
    Progress,
    common_classes,
    is_ignored,
    is_image,
    require_bytes,
    require_images,
    require_printable,
)
from kdbench.errors import UserError
from kdbench.utils.text import one_line

_TAR: Final = ".tar"
_Member = tuple[str, int, int]
"""Path, bytes, and where it begins."""


@final
class Members:
    """Images inside a tar file; the open file is this process's own, and is shared after a fork."""

    def __init__(self, path: Path, offsets: Integers) -> None:
        self._path, self._offsets = path, offsets
        self._descriptor: int | None = None

    def read(self, index: int, name: str, size: int) -> bytes:  # noqa: ARG002 - see `Reader`
        """Return the bytes of an image, fewer where the file has become shorter."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY)
        return os.pread(self._descriptor, size, int(self._offsets[index]))

    def __getstate__(self) -> tuple[Path, Integers]:
        return self._path, self._offsets

    def __setstate__(self, state: tuple[Path, Integers]) -> None:
        self._path, self._offsets = state
        self._descriptor = None

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


@final
@dataclass(frozen=True, slots=True)
class Tars:
    """Images in ``DIR/train.tar`` and ``DIR/val.tar``."""

    root: Path
    word: str
    """Begins messages."""

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"tar:{self.root.resolve().name}"

    def places(self) -> list[Path]:
        """Return the files that may keep the index."""
        return places("tar", self.root)

    def stamps(self) -> dict[str, int]:
        """Return time of change and size of both files."""
        stamps: dict[str, int] = {}
        for path in self._paths():
            try:
                status = path.stat()
            except OSError as error:
                raise UserError(f"{self.word}: {path} cannot be read: {error.strerror}") from None
            stamps |= {path.name: stamp(status.st_mtime_ns), f"{path.name} bytes": status.st_size}
        return stamps

    def reader(self, split: str, index: Split) -> Members:
        """Return what reads the images of ``train`` or ``test``."""
        train, test = self._paths()
        return Members(train if split == "train" else test, index.offsets)

    def find(self, stale: Sequence[Index], progress: Progress) -> Index:  # noqa: ARG002 - names and sizes lie together
        """List all images, by the headers in both files.

        Raises
        ------
        UserError
            This is no such data set, or a file is damaged.
        """
        splits: dict[str, dict[str, list[_Member]]] = {}
        strays: list[str] = []
        done = 0
        for path in self._paths():
            members: dict[str, list[_Member]] = {}
            splits[path.name] = members
            for label, member in self._members(path, strays):
                members.setdefault(label, []).append(member)
                progress(done := done + 1)
        require_images(self.word, strays)
        counts = {name: {label: len(rows) for label, rows in members.items()} for name, members in splits.items()}
        class_names = common_classes(self.word, counts)
        train, test = (self._split(members, class_names) for members in splits.values())
        return Index(class_names, train, test, stamps={})

    def _paths(self) -> tuple[Path, Path]:
        # Without an error for a path that the system does not take.
        names = [name for name in TESTS if os.path.exists(self.root / f"{name}{_TAR}")]  # noqa: PTH110
        train = self.root / f"train{_TAR}"
        for path, exists in ((train, os.path.exists(train)), (self.root / f"{TESTS[0]}{_TAR}", bool(names))):  # noqa: PTH110
            if not exists:
                raise UserError(f"{self.word}: there is no file {path}: give the folder that has it")
        if names[0] != TESTS[0] and len(names) > 1:
            files = " and ".join(name + _TAR for name in names)
            raise UserError(f"{self.word} has {files}: name that of the test images {TESTS[0]}{_TAR}")
        return train, self.root / f"{names[0]}{_TAR}"

    def _members(self, path: Path, strays: list[str]) -> Iterator[tuple[str, _Member]]:
        """Yield label and place of each image in a file; what is no image is added to ``strays``."""
        try:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
                for member in _headers(archive):
                    name = self._name(path, member)
                    stem, extension = posixpath.splitext(posixpath.basename(name))
                    if extension.lower() != _TAR or not member.isreg():
                        yield from self._image(path.name, "", name, member, 0, strays)
                        continue
                    inner = archive.extractfile(member)
                    assert inner is not None
                    with inner, tarfile.open(fileobj=inner, mode="r:") as child:
                        for each in _headers(child):
                            place = f"{path.name}/{posixpath.basename(name)}"
                            yield from self._image(
                                place, stem, self._name(path, each), each, member.offset_data, strays
                            )
        except UserError:
            raise
        except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
            raise UserError(
                f"{self.word}: {path} cannot be read as an uncompressed tar file ({reason}): copy it again"
            ) from None

    def _image(
        self, place: str, outer: str, name: str, member: tarfile.TarInfo, start: int, strays: list[str]
    ) -> Iterator[tuple[str, _Member]]:
        folder, base = posixpath.split(name)
        if member.isdir() or is_ignored(base):
            return
        label = posixpath.basename(posixpath.join(outer, folder).rstrip("/"))
        if not member.isreg() or member.issparse() or not is_image(base) or not label:
            strays.append(f"{place}/{name}")
            return
        yield label, (f"{place}/{name}", member.size, start + member.offset_data)

    def _name(self, path: Path, member: tarfile.TarInfo) -> str:
        require_printable(f"{self.word}: {path.name}", [member.name])
        name = posixpath.normpath(member.name)
        if name.startswith(("/", "../")):
            raise UserError(f"{self.word}: {path.name} has {member.name}, a path that leaves the file: pack it again")
        return name

    def _split(self, members: dict[str, list[_Member]], class_names: Sequence[str]) -> Split:
        rows = [row for name in class_names for row in sorted(members[name])]
        for (name, *_), (other, *_) in itertools.pairwise(rows):
            if name == other:
                raise UserError(f"{self.word} has {name} twice: pack the file again")
        names = "".join(f"{name}\n" for name, _, _ in rows).encode()
        labels = np.repeat(np.arange(len(class_names), dtype=np.int64), [len(members[name]) for name in class_names])
        sizes, offsets = (np.array([row[part] for row in rows], np.int64) for part in (1, 2))
        split = Split(names, labels, sizes, offsets)
        require_bytes(self.word, split)
        return split


def _headers(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a file, keep none, and raise ``TarError`` where the file ends before its mark."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]
        yield member
    file = archive.fileobj
    assert file is not None
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends too early, or is damaged")
