"""The settings that a search tries: trial i is a function of the space, the study and i alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from kdbench.experiment.identity import identity_text
from kdbench.space import Searched


def points(space: Mapping[str, Searched], study: int, number: int) -> list[dict[str, Any]]:
    """Return the first points of a study, one value of each setting.

    They are points of a Halton sequence, scrambled by the space and the number of the study: any number of them covers
    the space evenly, and more of them leave the first ones as they are.

    References
    ----------
    A. B. Owen, A randomized Halton algorithm in R, 2017 (scipy.stats.qmc.Halton).
    """
    if not space or not number:
        return []
    from scipy.stats import qmc  # noqa: PLC0415 - takes half a second

    names = sorted(space)
    described = identity_text({"space": {name: str(space[name]) for name in names}, "study": study})
    scrambling = int.from_bytes(hashlib.sha256(described.encode()).digest()[:8], "big")
    rows = qmc.Halton(len(names), scramble=True, rng=scrambling).random(number)
    return [{name: space[name].value(float(place)) for name, place in zip(names, row, strict=True)} for row in rows]
