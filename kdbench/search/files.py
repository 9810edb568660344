"""The files that a search leaves below a folder of runs, by their names, and the rule that they state."""

from __future__ import annotations

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
