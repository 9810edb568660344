"""The files that a search leaves below a folder of runs, by their names."""

from __future__ import annotations

FOLDER, STUDY = "searches", "study.json"
"""Folder of studies below that of a protocol, and the file that describes one."""
BEST, CHOSEN = "best", "chosen"
"""Names of the last two steps."""


def choice_name(num_trials: int, step: str) -> str:
    """Return the name of the file of a choice; that of fewer trials remains beside it."""
    return f"{num_trials}-trials-{step}.json"
