"""Find and read the images of a Hugging Face data set with timm's reader, where the package ``datasets`` is installed.

Its columns are ``image`` and ``label``, the latter with class names, which keep the data set's own order and numbers.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from kdbench.data.files.index import CHANGING, Index, Split, place_of_user, stamp
from kdbench.data.files.listing import Integers
from kdbench.data.files.names import Progress, common_classes, require_bytes, require_printable
from kdbench.errors import UserError
from kdbench.utils.text import one_line

_TESTS: Final = ("validation", "test")
"""Splits of test images; the first that exists is taken."""
_ROWS: Final = 10_000
"""Rows that are looked at in one go."""


@final
@dataclass(frozen=True, eq=False)
class RowReader:
    """Images that are rows of a data set; ``reader`` is timm's, whose bytes lie in mapped memory or in files."""

    reader: Any
    rows: Integers

    def read(self, index: int, name: str, size: int) -> bytes:  # noqa: ARG002 - see `Reader`
        """Return all bytes of an image."""
        file, _ = self.reader[int(self.rows[index])]
        with file:
            data: bytes = file.read()
        return data


@final
class Rows:
    """The images of ``hfds:NAME``: a data set of the Hugging Face Hub, or a folder of its kind.

    Parameters
    ----------
    path
        The name or folder.
    word
        Begins messages.

    Raises
    ------
    UserError
        The package is missing, or the data set cannot be loaded.
    """

    def __init__(self, path: str, word: str) -> None:
        self.word = word
        self.name = f"hfds:{Path(path).resolve().name}" if Path(path).is_dir() else word
        if importlib.util.find_spec("datasets") is None:
            raise UserError(f"{word} needs the package datasets: type 'pip install datasets'")
        train, test = self._load(path, "train"), None
        for split in _TESTS:
            test = test or self._load(path, split)
        if train is None or test is None:
            raise UserError(f"{word} has no split {'train' if train is None else ' or '.join(_TESTS)}: it needs both")
        self._readers = {"train": train, "test": test}

    def places(self) -> list[Path]:
        """Return the file that may keep the index: in the user's cache folder."""
        return place_of_user("hfds", "\n".join(self._files()))

    def stamps(self) -> dict[str, int]:
        """Return the times of change of the package's own files."""
        return {file: stamp(Path(file).stat().st_mtime_ns) for file in self._files()} or {"in memory": CHANGING}

    def reader(self, split: str, index: Split) -> RowReader:
        """Return what reads the images of ``train`` or ``test``."""
        return RowReader(self._readers[split], index.offsets)

    def find(self, stale: Sequence[Index], progress: Progress) -> Index:  # noqa: ARG002 - names and sizes lie together
        """List all images.

        Raises
        ------
        UserError
            A column is not as it must be, or a class is missing in a split.
        """
        class_names = tuple(self._readers["train"].class_to_idx)
        if not class_names or class_names != tuple(self._readers["test"].class_to_idx):
            raise UserError(
                f"{self.word}: its labels have no class names, or others in each split: make them a ClassLabel"
            )
        require_printable(self.word, list(class_names))
        train, test = (self._split(split, len(class_names), progress) for split in self._readers)
        counts = [Counter(dict.fromkeys(class_names, 0)) for _ in self._readers]
        for count, split in zip(counts, (train, test), strict=True):
            count.update(class_names[label] for label in split.labels)
        common_classes(self.word, dict(zip(self._readers, counts, strict=True)))
        return Index(class_names, train, test, stamps={})

    def _files(self) -> list[str]:
        return [file["filename"] for reader in self._readers.values() for file in reader.dataset.cache_files]

    def _load(self, path: str, split: str) -> Any | None:
        """Return timm's reader of a split; None where there is no such split."""
        from timm.data.readers.reader_hfds import ReaderHfds  # noqa: PLC0415 - imports the package

        try:
            return ReaderHfds(path, split=split)
        except Exception as error:  # a loader of many formats, over a network: it raises what it happens to meet
            if isinstance(error, ValueError) and "Unknown split" in str(error):
                return None
            raise UserError(
                f"{self.word} cannot be loaded ({one_line(error)}): its name must be that of a data set with the "
                "columns image and label, and on a machine without network it must have been downloaded before"
            ) from None

    def _split(self, split: str, num_classes: int, progress: Progress) -> Split:
        compute = importlib.import_module("pyarrow.compute")  # comes with the package
        dataset = self._readers[split].dataset
        names: list[str] = []
        labels = np.empty(len(dataset), np.int64)
        sizes = np.empty(len(dataset), np.int64)
        for start in range(0, len(dataset), _ROWS):
            # Arrow's own columns: the bytes of images stay on the disk.
            table = dataset.with_format("arrow")[start : start + _ROWS]
            rows = range(start, start + len(table))
            paths = compute.struct_field(table["image"], "path").to_pylist()
            lengths = compute.binary_length(compute.struct_field(table["image"], "bytes")).to_pylist()
            labels[rows.start : rows.stop] = table["label"].fill_null(-1).to_numpy()
            sizes[rows.start : rows.stop] = [
                os.path.getsize(path) if size is None else size  # noqa: PTH202 - a million of them
                for size, path in zip(lengths, paths, strict=True)
            ]
            bases = [os.path.basename(path or "") for path in paths]  # noqa: PTH119
            require_printable(f"{self.word}: {split}", bases)
            names += [f"{split}/{row}" + (f"/{base}" if base else "") for row, base in zip(rows, bases, strict=True)]
            progress(rows.stop, len(dataset))
        if len(without := np.flatnonzero((labels < 0) | (labels >= num_classes))):
            raise UserError(f"{self.word}: {names[without[0]]} has no class ({len(without):,} images have none)")
        order = np.argsort(labels, kind="stable")
        text = "".join(f"{names[row]}\n" for row in order).encode()
        listed = Split(text, labels[order], sizes[order], offsets=order)
        require_bytes(self.word, listed)
        return listed
