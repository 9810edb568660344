"""Find the images of a data set in folders by their names alone, and refuse what is no such data set.

================  ===========================  ===============================================================
word              training images              test images
================  ===========================  ===============================================================
``folder:``       ``train/CLASS/*``            ``val/CLASS/*``; without ``val``, ``validation`` or ``test``
``imagenet:``     ``train/CLASS/*``            the same, or ``val/*`` with the devkit's ground truth
``tinyimagenet:`` ``train/CLASS/images/*``     ``val/images/*`` with ``val/val_annotations.txt``
================  ===========================  ===============================================================

In these folders hidden files and folders, Thumbs.db and desktop.ini are ignored, and all else that is neither an image
by its extension nor the folder of a class is refused. Links are followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

import numpy as np

from kdbench.data.files import keys
from kdbench.data.files.index import Index, Split, places, stamp
from kdbench.data.files.listing import Files, Integers
from kdbench.data.files.names import (
    NAMED,
    TESTS,
    Progress,
    common_classes,
    is_ignored,
    is_image,
    natural,
    require_bytes,
    require_images,
    require_named,
    require_printable,
)
from kdbench.errors import UserError
from kdbench.utils.text import one_line

TRAIN: Final = "train"
_IMAGES = "images"
"""The folder inside a class's of Tiny ImageNet, and inside ``val``."""
_THREADS = 16
"""A disk behind a network answers many questions at once."""
_CHUNK = 100
"""Files that a thread looks at in one go."""


@final
@dataclass(frozen=True, slots=True)
class _Layout:
    """The folders that hold images, relative to the data set's."""

    train: Mapping[str, str]
    """By class."""
    test: Mapping[str, str] | str
    """By class, or the only one."""
    test_name: str
    keys: tuple[str, ...] = ()
    """Files that name the classes of the images in one folder."""

    def watched(self) -> Iterator[str]:
        """Yield what changes where images are added, removed or renamed."""
        yield from (TRAIN, self.test_name)
        yield from self.train.values()
        yield from [self.test] if isinstance(self.test, str) else self.test.values()
        yield from self.keys


@final
@dataclass(frozen=True, slots=True)
class Folders:
    """Images in folders, as ``folder:``, ``imagenet:`` and ``tinyimagenet:`` name them."""

    kind: str
    root: Path
    word: str
    """Begins messages."""

    @property
    def name(self) -> str:
        """As tables show it."""
        return self.kind if self.kind in NAMED else f"{self.kind}:{self.root.resolve().name}"

    def places(self) -> list[Path]:
        """Return the files that may keep the index."""
        return places(self.kind, self.root)

    def stamps(self) -> dict[str, int]:
        """Return the times of change of all folders, which are looked at, and not of the files in them."""
        return {path: stamp(self._stat(path).st_mtime_ns) for path in self._layout().watched()}

    def reader(self, split: str, index: Split) -> Files:  # noqa: ARG002 - all images are files
        """Return what reads the images."""
        return Files(self.root)

    def find(self, stale: Sequence[Index], progress: Progress) -> Index:
        """List all images: first their names, then their sizes, unless an earlier index has the same names.

        Raises
        ------
        UserError
            This is no such data set, or a folder or file cannot be read.
        """
        named = self._names(progress)
        require_named(self.kind, self.word, named.class_names, len(named.train.labels), len(named.test.labels))
        for index in stale:
            same_classes = index.class_names == named.class_names
            if same_classes and all(map(self._holds, index.splits, named.splits)):
                return index
        total = len(named.train.labels) + len(named.test.labels)
        train = self._measured(named.train, lambda done: progress(done, total))
        test = self._measured(named.test, lambda done: progress(len(train.labels) + done, total))
        return replace(named, train=train, test=test)

    def _names(self, progress: Progress) -> Index:
        """Return the names of all images, and check them."""
        layout = self._layout()
        strays: list[str] = []
        splits: list[dict[str, list[str]]] = []
        done = 0
        for folders in (layout.train, layout.test):
            if isinstance(folders, str):
                splits.append(self._labelled(folders, strays))
                continue
            images: dict[str, list[str]] = {}
            for label, folder in folders.items():
                images[label] = [f"{folder}/{name}" for name in self._images(folder, strays)]
                progress(done := done + len(images[label]))
            splits.append(images)
        self._refuse(strays)
        counts = [{label: len(paths) for label, paths in images.items()} for images in splits]
        by = f" (with the classes in {layout.keys[-1]})" if layout.keys else ""
        class_names = common_classes(self.word, {TRAIN: counts[0], f"{layout.test_name}{by}": counts[1]})
        train, test = (_split(images, class_names) for images in splits)
        return Index(class_names, train, test, stamps={})

    def _holds(self, split: Split, named: Split) -> bool:
        """Return whether an earlier look at a split holds: all names are the same, and one size of each class."""
        if split.names != named.names or not np.array_equal(split.labels, named.labels):
            return False
        _, firsts = np.unique(split.labels, return_index=True)
        paths = split.names.decode().splitlines()
        return np.array_equal(self._all_sizes([paths[first] for first in firsts]), split.sizes[firsts])

    def _measured(self, split: Split, progress: Callable[[int], None]) -> Split:
        """Return a split with the sizes of its images."""
        measured = replace(split, sizes=self._all_sizes(split.names.decode().splitlines(), progress))
        require_bytes(self.word, measured)
        return measured

    def _all_sizes(self, paths: Sequence[str], progress: Callable[[int], None] = lambda _: None) -> Integers:
        """Return the sizes of files, asked for by many threads at once."""
        sizes = np.empty(len(paths), np.int64)
        starts = range(0, len(paths), _CHUNK)
        with ThreadPoolExecutor(_THREADS) as pool:
            parts = pool.map(lambda start: self._sizes(paths[start : start + _CHUNK]), starts)
            for start, part in zip(starts, parts, strict=True):
                sizes[start : start + len(part)] = part
                progress(start + len(part))
        return sizes

    def _sizes(self, paths: Sequence[str]) -> list[int]:
        sizes = []
        for path in paths:
            status = self._stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{self.word}: {path} is no file, but is named like an image: rename or delete it")
            sizes.append(status.st_size)
        return sizes

    def _layout(self) -> _Layout:
        self._require_root()
        strays: list[str] = []
        if self.kind == "tinyimagenet":
            classes = {label: f"{folder}/{_IMAGES}" for label, folder in self._classes(TRAIN, strays).items()}
            self._refuse(strays)
            return _Layout(classes, f"val/{_IMAGES}", "val", (keys.ANNOTATIONS,))
        test_name = self._test_name()
        others: list[str] = []
        train, test = self._classes(TRAIN, strays), self._classes(test_name, others)
        images = [path for path in others if is_image(path)]
        if images and not test and self.kind == "imagenet":
            self._refuse([*strays, *(path for path in others if not is_image(path))])
            return _Layout(train, test_name, test_name, keys.find_devkit(self.root))
        if images := [path for path in strays + others if is_image(path)]:
            hint = " (type imagenet:DIR for ImageNet's validation images)" if images[0] in others and not test else ""
            require_images(self.word, images, f"an image in no folder of a class{hint}")
        self._refuse(strays + others)
        return _Layout(train, test, test_name)

    def _refuse(self, strays: list[str]) -> None:
        """Raise UserError that names the first file or folder that is neither an image nor a class, if there is one."""
        if strays:
            path = self.root / strays[0]
            folder, link = "a folder, where only images may be", "a link to nothing"
            require_images(self.word, strays, folder if path.is_dir() else "" if path.exists() else link)

    def _require_root(self) -> None:
        names = {entry.name for entry in self._entries(".")}
        if TRAIN not in names:
            held = ", ".join(sorted(name for name in names if not is_ignored(name))[:8]) or "nothing"
            raise UserError(f"{self.word} has no folder {TRAIN}: give the folder that has it; it holds {held}")

    def _test_name(self) -> str:
        names = [name for name in TESTS if (self.root / name).exists()]
        if not names:
            raise UserError(f"{self.word} has no folder {TESTS[0]}: give its test images one, with the same classes")
        if names[0] != TESTS[0] and len(names) > 1:
            raise UserError(
                f"{self.word} has the folders {' and '.join(names)}: name that of the test images {TESTS[0]}"
            )
        return names[0]

    def _classes(self, split: str, strays: list[str]) -> dict[str, str]:
        """Return the folders of a split's classes by name; what is none is added to ``strays``."""
        entries = [entry for entry in self._entries(split) if not is_ignored(entry.name)]
        require_printable(f"{self.word}: {split}", [entry.name for entry in entries])
        folders = [entry.name for entry in entries if self._is_folder(entry, split)]
        strays += sorted(f"{split}/{name}" for name in {entry.name for entry in entries} - set(folders))
        return {name: f"{split}/{name}" for name in sorted(folders, key=natural)}

    def _images(self, folder: str, strays: list[str]) -> list[str]:
        """Return the names of the images in a folder, sorted; what is none is added to ``strays``."""
        names = [entry.name for entry in self._entries(folder) if not is_ignored(entry.name)]
        require_printable(f"{self.word}: {folder}", names)
        strays += sorted(f"{folder}/{name}" for name in names if not is_image(name))
        return sorted(name for name in names if is_image(name))

    def _labelled(self, folder: str, strays: list[str]) -> dict[str, list[str]]:
        """Return the paths of images in one folder by class."""
        images = self._images(folder, strays)
        if self.kind == "tinyimagenet":
            labels = keys.annotated(self.root)
            missing = [*(name for name in images if name not in labels), *sorted(labels.keys() - set(images))]
            if missing:
                lacks = keys.ANNOTATIONS if missing[0] not in labels else folder
                raise UserError(f"{self.word}: {lacks} has no {missing[0]} (and {len(missing) - 1} more)")
        else:
            labels = keys.ground_truth(self.root, images)
        by_class: dict[str, list[str]] = {}
        for name in images:
            by_class.setdefault(labels[name], []).append(f"{folder}/{name}")
        return by_class

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        path = self.root if folder == "." else self.root / folder
        try:
            with os.scandir(path) as entries:
                return list(entries)
        except FileNotFoundError:
            raise UserError(f"{self.word}: there is no folder {path}") from None
        except NotADirectoryError:
            raise UserError(f"{self.word}: {path} is a file, not a folder") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.word}: the folder {path} cannot be read: {_reason(error)}") from None

    def _is_folder(self, entry: os.DirEntry[str], split: str) -> bool:
        try:
            return entry.is_dir()
        except OSError as error:
            raise UserError(f"{self.word}: {split}/{entry.name} cannot be read: {_reason(error)}") from None

    def _stat(self, path: str) -> os.stat_result:
        try:
            return os.stat(self.root / path)  # noqa: PTH116 - a million of them
        except OSError as error:
            raise UserError(f"{self.word}: {path} cannot be read: {_reason(error)}") from None


def _split(images: Mapping[str, Iterable[str]], class_names: Sequence[str]) -> Split:
    parts, counts = [], []
    for name in class_names:
        paths = sorted(images[name])
        counts.append(len(paths))
        parts.append("".join(f"{path}\n" for path in paths).encode())
    return Split(b"".join(parts), np.repeat(np.arange(len(class_names), dtype=np.int64), counts))


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or one_line(error)
