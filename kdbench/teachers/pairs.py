"""What a cache keeps: pairs of image and view, listed or all crops of a pool without a list, and parts of outputs.

Legend: ``P`` pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self, final

import numpy as np
import numpy.typing as npt

from kdbench.data.views import CropIds, ViewIds
from kdbench.method import ViewPlan
from kdbench.net import Part

Pairs = npt.NDArray[np.int64]
"""Numbers of pairs, see :meth:`kdbench.data.views.ViewIds.pair`."""
Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]
"""Rows of pairs in a set, and which of the pairs are there at all."""


@final
@dataclass(frozen=True, slots=True)
class PoolPairs:
    """All images x all crops of a pool x some rotations: an ascending array of pairs that takes no memory."""

    num_images: int
    num_crops: int
    """Crops of an image."""
    rotations: tuple[int, ...]
    """Counter-clockwise quarter turns, ascending."""

    @classmethod
    def of(cls, numbering: ViewIds, num_images: int, plans: Collection[ViewPlan]) -> Self | None:
        """Return the pairs that plans may visit under a protocol with a pool; None under one without."""
        if (pool := _pool(numbering)) is None:
            return None
        rotations = {turns for plan in plans for turns in plan.quarter_turns}
        return cls(num_images, pool, tuple(sorted(rotations)))

    def __len__(self) -> int:
        return self.num_images * self.num_crops * len(self.rotations)

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Pairs:
        upper, crop = np.divmod(rows, self.num_crops)
        index, place = np.divmod(upper, len(self.rotations))
        pairs: Pairs = (index * 4 + np.array(self.rotations, np.int64)[place]) * self.num_crops + crop
        return pairs

    def find(self, pairs: Pairs) -> Found:
        """Return the rows of pairs ``(P,)``, and which of them are there."""
        upper, crop = np.divmod(pairs, self.num_crops)
        index, turns = np.divmod(upper, 4)
        places = np.full(4, -1)
        places[list(self.rotations)] = np.arange(len(self.rotations))
        there = (places[turns] >= 0) & (index < self.num_images)
        rows = (index * len(self.rotations) + places[turns]) * self.num_crops + crop
        return np.where(there, rows, 0), there


PairSet = Pairs | PoolPairs


def find(stored: PairSet, pairs: Pairs) -> Found:
    """Return the rows of pairs in a set, and which of them are there; fastest for pairs in ascending order."""
    if isinstance(stored, PoolPairs):
        return stored.find(pairs)
    rows = np.searchsorted(stored, pairs).clip(max=len(stored) - 1)
    return rows, stored[rows] == pairs


def lacking(wanted: PairSet, stored: PairSet) -> PairSet:
    """Return the pairs of ``wanted`` that are not stored; a list is never taken for a part of a pool."""
    if not isinstance(wanted, PoolPairs):
        return wanted[~find(stored, wanted)[1]]
    if not isinstance(stored, PoolPairs) or stored != replace(wanted, rotations=stored.rotations):
        return wanted
    return replace(wanted, rotations=tuple(turns for turns in wanted.rotations if turns not in stored.rotations))


def union(sets: Sequence[PairSet]) -> PairSet:
    """Return the pairs that are in any of some sets of one kind."""
    pools = [each for each in sets if isinstance(each, PoolPairs)]
    if pools:
        return replace(pools[0], rotations=tuple(sorted({turns for pool in pools for turns in pool.rotations})))
    return np.unique(np.concatenate([each for each in sets if not isinstance(each, PoolPairs)]))


def stored_parts(reads: Collection[Part], numbering: ViewIds, widths: Mapping[Part, int]) -> frozenset[Part]:
    """Return the parts that a cache stores for what is read of a teacher.

    A cache of a pool has rows by the million. It does not store logits where penultimate features are narrower: the
    teacher's classifier computes them from these, equal up to rounding.

    Parameters
    ----------
    widths
        Numbers or bytes of one view's logits and penultimate features.
    """
    parts = frozenset(reads)
    if _pool(numbering) and "logits" in parts and widths["penultimate"] < widths["logits"]:
        return parts - {"logits"} | {"penultimate"}
    return parts


def _pool(numbering: ViewIds) -> int | None:
    """Return the number of crops of an image under a protocol with a pool."""
    return numbering.pool if isinstance(numbering, CropIds) else None
