"""The files that a search leaves below a folder of runs: names, the rule that they state, reading and writing."""

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
NUM_BEST = 3
"""Trials that are run again before one of them is chosen."""
NUM_SEEDS = 3
"""Seeds by which it is chosen: that of the trial, and two further ones."""
RULE = (
    "trials are ranked by top-1 on the held-out images after the last epoch, a failed one last, the earlier of equals "
    f"first; each rung takes the better half of the one before, and the best {NUM_BEST} of the last rung are run with "
    f"{NUM_SEEDS - 1} further seeds: the one with the best mean is chosen"
)


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
