"""The files that a search leaves below a folder of runs: their names, and how they are read and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbench.experiment.record_checks import is_sealed, sealed
from kdbench.utils.files import write_json
from kdbench.utils.reading import Unreadable, read_json

FOLDER, STUDY = "searches", "study.json"
"""Folder of studies below that of a protocol, and the file that describes one."""
BEST, CHOSEN = "best", "chosen"
"""Names of the last two steps."""


def choice_name(num_trials: int, step: str) -> str:
    """Return the name of the file of a choice; that of fewer trials remains beside it."""
    return f"{num_trials}-trials-{step}.json"


def write_values(path: Path, values: dict[str, Any]) -> None:
    """Write a file of a search with the hash of its values."""
    write_json(path, sealed(values))


def read_values(path: Path) -> dict[str, Any]:
    """Return the values in a file of a search.

    Raises
    ------
    Missing
        There is no such file.
    Unreadable
        It is no JSON object, or was changed since it was written.
    """
    values = read_json(path)
    if is_sealed(values) and values != sealed(values):
        raise Unreadable("does not have the hash of its values")
    return values
