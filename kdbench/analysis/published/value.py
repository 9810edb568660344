"""A published accuracy, and whether it can be compared with a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdbench.analysis.published.files import PublishedEpoch


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedValue:
    """A published accuracy of one pair and method, in percent."""

    method: str
    """Published name."""
    top1: float
    """Mean accuracy."""
    top5: float | None = None
    """None where the source prints none."""
    std: float | None
    """Standard deviation over the runs; None if unknown."""
    n: int | None
    """Number of runs that the value is the mean of; None if unknown."""
    epoch: PublishedEpoch
    """Epoch whose accuracy it is."""
    source: str
    """Key of the source that the value is attributed to."""
    also_in: tuple[str, ...]
    """Keys of other sources that print the value."""
    differs: str
    """Why the value is not comparable with results under the protocol; empty if it is."""
    note: str
    """What else must be known to read the value; may be empty."""
    contested: str = ""
    """Why others doubt the value; empty if none does."""

    @property
    def comparable(self) -> bool:
        """Whether networks, training rules and settings are the same; ``epoch`` may differ."""
        return not self.differs


def value_of(row: dict[Any, Any], protocol: str) -> PublishedValue:
    """Return the value of a row of :class:`~kdbench.analysis.published.values.Published`, for results of a protocol."""
    other = f"comparable with {row['protocol']}, not with {protocol}" if row["protocol"] not in {"", protocol} else ""
    return PublishedValue(
        method=row["method"],
        top1=row["top1"],
        top5=None if pd.isna(row["top5"]) else row["top5"],
        std=None if pd.isna(row["std"]) else row["std"],
        n=None if pd.isna(row["n"]) else row["n"],
        epoch=row["epoch"],
        source=row["source"],
        also_in=row["also_in"],
        differs=row["differs"] or other,
        note="; ".join(filter(None, (row["note"], row["network_note"]))),
        contested=row["contested"],
    )
