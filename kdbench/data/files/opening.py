"""Open a data set of image files by a word such as ``folder:DIR``; its listing is made once and kept."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

from kdbench.data.files.folders import Folders
from kdbench.data.files.index import Index, Split, keep, kept
from kdbench.data.files.listing import ImageFiles, Listing, Reader
from kdbench.data.files.names import Progress, Report
from kdbench.data.files.rows import Rows
from kdbench.data.files.tars import Tars
from kdbench.errors import UserError

Kind = Literal["folder", "imagenet", "tinyimagenet", "tar", "hfds"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class Source(Protocol):
    """Where a data set's images lie."""

    @property
    def word(self) -> str:
        """What the user typed."""

    @property
    def name(self) -> str:
        """As tables show it."""

    def places(self) -> Sequence[Path]:
        """Return the files that may keep the index, in the order in which they are tried."""

    def stamps(self) -> dict[str, int]:
        """Return what stays as it is as long as the data set does, without a look at each image."""

    def find(self, stale: Sequence[Index], progress: Progress) -> Index:
        """List all images; sizes may be taken from an earlier index of the same names."""

    def reader(self, split: str, index: Split) -> Reader:
        """Return what reads the images of ``train`` or ``test``."""


def image_word(word: str) -> tuple[Kind, str] | None:
    """Split ``KIND:DIR``, with the kind in capitals or not; None for any other word.

    Raises
    ------
    UserError
        Nothing follows the kind.
    """
    kind, colon, path = word.partition(":")
    name = next((name for name in KINDS if colon and kind.strip().lower() == name), None)
    if name and not path.strip():
        raise UserError(f"{word!r} names no data: type {name}:{'NAME' if name == 'hfds' else 'DIR'}")
    return (name, path) if name else None


def expanded(path: str) -> str:
    """Return a path with its environment variables and ``~`` replaced by what they mean on this machine.

    Raises
    ------
    UserError
        A variable is not set.
    """
    for match in re.finditer(r"\$(?:(\w+)|\{([^}]*)\})", path):
        if not os.environ.get(match[1] or match[2]):
            raise UserError(f"the environment variable {match[0]} in {path!r} is not set here: give another folder")
    return os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - as it is where there is no home


def open_image_files(kind: Kind, path: str, report: Report = lambda _: None, *, anew: bool = False) -> ImageFiles:
    """Open a data set: read its listing where it is kept and nothing has changed, or else make and keep it.

    Parameters
    ----------
    kind, path
        As `image_word` returns them. Environment variables and ``~`` are expanded here.
    report
        Takes lines on the progress of a listing that takes longer than a few seconds.
    anew
        Whether to make the listing in any case.

    Raises
    ------
    UserError
        There is no such data set, or something in it is not as it must be; the message names it.
    """
    source = _source(kind, expanded(path), f"{kind}:{path}")
    stamps, stale = source.stamps(), []
    for place in () if anew else source.places():
        if index := kept(place):
            if index.is_fresh(stamps):
                return _opened(source, index, place)
            stale.append(index)
    progress = Progress(report, f"listing {source.word}, once for all later jobs")
    index = replace(source.find(stale, progress), stamps=stamps)
    return _opened(source, index, keep(index, source.places()))


def _source(kind: Kind, path: str, word: str) -> Source:
    if kind == "hfds":
        return Rows(path, word)
    root = Path(path).absolute()
    return Tars(root, word) if kind == "tar" else Folders(kind, root, word)


def _opened(source: Source, index: Index, kept_in: Path | None) -> ImageFiles:
    train, test = (
        Listing(split.names, split.labels, split.sizes, source.reader(name, split), source.word)
        for name, split in zip(("train", "test"), index.splits, strict=True)
    )
    return ImageFiles(source.name, train, test, index.class_names, kept_in)
