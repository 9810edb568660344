"""The list of files of a published folder, with their hashes, by which a reader sees that it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.experiment.folder import RECORD
from kdbench.search.files import FOLDER
from kdbench.utils.reading import Missing, Unreadable, read_bytes, read_json

LIST, RECORDS, README = "published.json", "records", "README.md"
_FORMAT = 1
_FILE = re.compile(r"README\.md|records(/[A-Za-z0-9_][A-Za-z0-9._-]*)+")
"""Paths that a list may name: none leads out of its folder."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What the list of a published folder says."""

    publisher: str
    """Who published it; empty if that was not given."""
    hardware: list[dict[str, Any]]
    """What the records say about the machines, each with its number of cells."""
    files: Mapping[str, str]
    """SHA-256 of each file, by its path in the folder."""

    def text(self) -> str:
        """Return the content of the list."""
        values = {
            "format": _FORMAT,
            "publisher": self.publisher,
            "hardware": self.hardware,
            "files": dict(sorted(self.files.items())),
        }
        return json.dumps(values, indent=2) + "\n"


def is_published(folder: Path) -> bool:
    """Return whether a folder has a list of published files, whole or not."""
    return os.path.lexists(folder / LIST)


def read_publication(folder: Path) -> Publication:
    """Return what the list of a folder says.

    Raises
    ------
    Missing
        There is no list.
    Unreadable
        It is damaged, or of a later version of kdbench.
    """
    values = read_json(folder / LIST)
    if values.get("format") != _FORMAT:
        raise Unreadable(
            f"is of format {values.get('format')!r:.20}, and this kdbench reads {_FORMAT}: use a newer one"
        )
    try:
        publisher, hardware, files = str(values["publisher"]), list(values["hardware"]), dict(values["files"])
    except (KeyError, TypeError, ValueError):
        raise Unreadable("is damaged: it does not list hardware and files") from None
    if not all(isinstance(machine, dict) for machine in hardware):
        raise Unreadable("is damaged: it does not describe hardware")
    if strange := next((name for name in files if not _FILE.fullmatch(name)), None):
        raise Unreadable(f"is damaged: it lists {strange!r:.80}")
    return Publication(publisher, hardware, files)


def flaws(folder: Path) -> Iterator[str]:
    """Yield what is wrong with a published folder, a line each: files that are missing, changed or not listed."""
    path = folder / LIST
    try:
        publication = read_publication(folder)
    except Unreadable as error:
        yield f"{path} {error}"
        return
    for name, digest in publication.files.items():
        try:
            content = read_bytes(folder / name)
        except Missing:
            yield f"{folder / name} is missing, and {LIST} lists it"
        except Unreadable as error:
            yield f"{folder / name} {error}"
        else:
            if hashlib.sha256(content).hexdigest() != digest:
                yield f"{folder / name} was changed after it was published: its hash is not that in {LIST}"
    for path in sorted({*folder.rglob(RECORD), *folder.rglob(f"{FOLDER}/*/*.json")}):
        if (name := path.relative_to(folder).as_posix()) not in publication.files:
            yield f"{path} is not listed in {LIST}"
