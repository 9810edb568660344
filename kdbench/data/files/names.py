"""What names of images and classes must be, whatever they lie in."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, final

import numpy as np

from kdbench.data.files.index import Split
from kdbench.data.files.keys import WORDNET_ID
from kdbench.errors import UserError
from kdbench.utils.text import counted

Report = Callable[[str], None]
"""Takes a line on how far long work has come."""
EXTENSIONS: Final = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of image files, in lower case, as torchvision's ``ImageFolder`` takes them; timm's readers take the first three."""
NAMED: Final[Mapping[str, tuple[int, int, int]]] = MappingProxyType(
    {"imagenet": (1000, 1_281_167, 50_000), "tinyimagenet": (200, 100_000, 10_000)}
)
"""Classes, training images and test images of what may be called so."""
TESTS: Final = ("val", "validation", "test")
"""Names of the folder or tar file of test images: the first, or that of the others which exists."""
_IGNORED = frozenset({"thumbs.db", "desktop.ini"})
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, and the halves of pairs that Python puts for bytes that are not UTF-8."""
_SECONDS, _LONGEST = 5.0, 60.0
"""Before the first line of progress, and between later ones: twice as long each time, up to the second number."""


@final
class Progress:
    """Reports how far work on many files has come, now and then; short work reports nothing."""

    def __init__(self, report: Report, work: str) -> None:
        self._report, self._work = report, work
        self._pause = _SECONDS
        self._next = time.monotonic() + self._pause

    def __call__(self, done: int, total: int | None = None) -> None:
        """Take the number of files that are done, of how many."""
        if time.monotonic() >= self._next:
            self._pause = min(2 * self._pause, _LONGEST)
            self._next = time.monotonic() + self._pause
            number = f"{done:,} of {counted(total, 'file')}" if total else counted(done, "file")
            self._report(f"{self._work}: {number}")


def is_image(name: str) -> bool:
    """Return whether a file is an image by its extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122 - a million of them


def is_ignored(name: str) -> bool:
    """Return whether a file or folder is one that desktops leave behind: hidden, Thumbs.db or desktop.ini."""
    return name.startswith(".") or name.lower() in _IGNORED


def natural(name: str) -> tuple[list[int | str], str]:
    """Return the key by which classes are sorted: numbers in names by value and letters in any case, as in timm."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def require_printable(where: str, names: list[str]) -> None:
    """Raise UserError for names that are not UTF-8 or hold control characters."""
    if _UNPRINTABLE.search("/".join(names)):
        name = next(name for name in names if _UNPRINTABLE.search(name))
        raise UserError(f"{where} has {name!r}, a name with control characters or not in UTF-8: rename it")


def require_images(word: str, strays: list[str], reason: str = "") -> None:
    """Raise UserError that names the first of the files that are no images, where there are any."""
    if strays:
        reason = reason or f"no image by its extension ({', '.join(EXTENSIONS)})"
        more = f", and {counted(len(strays) - 1, 'file')} more" if len(strays) > 1 else ""
        raise UserError(f"{word}: {strays[0]} is {reason}{more}: move what is no image elsewhere")


def common_classes(word: str, splits: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    """Return the class names, sorted.

    Parameters
    ----------
    word
        Begins every message.
    splits
        Number of images by class, by the name of the split: training images first, then those of the test.

    Raises
    ------
    UserError
        A class is empty or missing in a split, or there are fewer than two.
    """
    (train, train_counts), (test, test_counts) = splits.items()
    for split, counts in splits.items():
        if empty := sorted((name for name, count in counts.items() if not count), key=natural):
            raise UserError(
                f"{word}: class {_first(empty)} has no image in {split}: give it some, or delete its folder"
            )
    for counts, split, other_counts, other in (
        (train_counts, train, test_counts, test),
        (test_counts, test, train_counts, train),
    ):
        if missing := sorted(counts.keys() - other_counts.keys(), key=natural):
            raise UserError(
                f"{word}: {other} has no class {_first(missing)}, which {split} has: both must have the same classes"
            )
    if len(train_counts) < 2:
        raise UserError(
            f"{word}: {train} has {len(train_counts)} class{'' if train_counts else 'es'}: give two or more"
        )
    return tuple(sorted(train_counts, key=natural))


def require_named(kind: str, word: str, class_names: tuple[str, ...], num_train: int, num_test: int) -> None:
    """Raise UserError for other data than those which a kind names, where it names some."""
    expected = NAMED.get(kind)
    present = (len(class_names), num_train, num_test)
    other = next((name for name in class_names if not WORDNET_ID.fullmatch(name)), None)
    if expected is None or (present == expected and other is None):
        return
    has, must = (f"{counted(k, 'class')}, {n:,} training and {m:,} test images" for k, n, m in (present, expected))
    named = f"; {other!r} is no WordNet id" if other is not None else ""
    raise UserError(
        f"{word} has {has}, but what is called {kind} has {must}{named}: complete it, or type folder:DIR for other data"
    )


def require_bytes(word: str, split: Split) -> None:
    """Raise UserError that names the first image of a split without a byte, where there is one."""
    if len(empty := np.flatnonzero(split.sizes <= 0)):
        name = split.names.splitlines()[empty[0]].decode()
        more = f", and {counted(len(empty) - 1, 'image')} more" if len(empty) > 1 else ""
        raise UserError(f"{word}: {name} is empty{more}: copy the data again, or delete such files")


def _first(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
