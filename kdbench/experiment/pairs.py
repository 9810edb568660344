"""Teacher>student pairs and their named sets."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class PairSet:
    """Teacher>student pairs, and the protocol that lists the published accuracies of their networks."""

    protocol: str
    pairs: tuple[str, ...]


def named_pairs() -> dict[str, PairSet]:
    """Sets of pairs by name."""
    text = (resources.files("kdbench.experiment") / "pairs.toml").read_text(encoding="utf-8")
    return {name: PairSet(entry["protocol"], tuple(entry["pairs"])) for name, entry in tomllib.loads(text).items()}


def usual_pairs() -> list[str]:
    """The pairs of all sets, in the order of papers."""
    return [pair for members in named_pairs().values() for pair in members.pairs]
