"""What cells will visit and read of a teacher, known before they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from kdbench.data.batches import DeviceData
from kdbench.data.views import ViewIds, check_plan
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.registry import load_method
from kdbench.method import PLAIN, ViewPlan
from kdbench.net import LOGITS, Part
from kdbench.teachers.cache import STORED
from kdbench.teachers.pairs import Pairs, PairSet, PoolPairs, union

_WORDS = {"penultimate": "penultimate features"}
"""For parts that are no feature maps."""
_CHECK_EVERY = 100
"""Epochs after which it is checked whether all pairs are visited: a long schedule visits no others."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one cell, or one method under one seed, visits and reads of a teacher."""

    seed: int
    plan: ViewPlan
    parts: frozenset[Part]
    epochs: range
    validation: float = 0.0
    """Share of the images that are held out, and that it does not visit."""

    @classmethod
    def by(cls, cell: Cell) -> Wanted:
        """Return what a cell visits and reads."""
        kind, config = load_method(cell.method), cell.settings.config
        validation = cell.protocol.rules.evaluation.validation
        return cls(cell.seed, kind.views(config), kind.all_reads(config).teacher, cell.epochs, validation)

    @property
    def cacheable(self) -> bool:
        """Whether a cache keeps all of it."""
        return self.parts <= STORED and not self.plan.num_strong

    def fits(self, image_size: tuple[int, int]) -> bool:
        """Return whether images ``(height, width)`` have all views: a cell without them is refused when it is built."""
        try:
            check_plan(self.plan, image_size)
        except UserError:
            return False
        return True


def unsupported(cell: Cell) -> str:
    """Say why a cell's method does not support an ensemble or a file of logits; empty where it does."""
    members = cell.teacher.members if cell.teacher else ()
    has_file = any(member.is_file for member in members)
    if len(members) < 2 and not has_file:
        return ""
    wanted = Wanted.by(cell)
    kind = "a file of logits" if len(members) == 1 else "an ensemble"
    if more := sorted({_WORDS.get(part, "feature maps") for part in wanted.parts - LOGITS}):
        return (
            f"{cell.method} reads {' and '.join(more)} of its teacher, and {kind} gives logits alone: choose a method "
            "that reads nothing else, or one network as the teacher"
        )
    if has_file and wanted.plan != PLAIN:
        return (
            f"{cell.method} shows its teacher {wanted.plan.num_views} views of each image, and a file of logits has "
            "those of one: choose a method with one view, or a network as the teacher"
        )
    return ""


@final
class Visits:
    """A set of pairs of image and view; where an image has few views, a table of all of them.

    Parameters
    ----------
    trained
        Numbers of the images that are visited; by default all.
    """

    def __init__(self, num_images: int, numbering: ViewIds, trained: Tensor | None = None) -> None:
        self._num_images, self._numbering = num_images, numbering
        self._trained = torch.arange(num_images) if trained is None else trained
        self._table = torch.zeros(num_images * numbering.num_views if numbering.is_small else 0, dtype=torch.bool)
        self._pairs = [torch.empty(0, dtype=torch.int64)]

    def add(self, seed: int, epochs: range, plan: ViewPlan) -> None:
        """Add what a seed visits in epochs, given by their numbers in streams."""
        numbering, index = self._numbering, self._trained
        for epoch in epochs:
            if numbering.is_small and epoch % _CHECK_EVERY == 0 and self._is_full():
                return
            pairs = numbering.pair(index, numbering.draw(seed, epoch, self._num_images, plan)[:, index]).flatten()
            if self._numbering.is_small:
                self._table[pairs] = True
            else:
                self._pairs.append(pairs)

    def _is_full(self) -> bool:
        """Return whether all views of the images that are visited are in the table."""
        return bool(self._table.view(self._num_images, -1)[self._trained].all())

    def pairs(self) -> Pairs:
        """Return the pairs, in ascending order, int64 ``(P,)``."""
        if self._numbering.is_small:
            return self._table.nonzero().flatten().numpy()
        pairs: Tensor = torch.cat(self._pairs).unique()
        return pairs.numpy()


def visited(wanted: Sequence[Wanted], data: DeviceData) -> PairSet:
    """Return all pairs of image and view that are visited, ascending; under a protocol with a pool, all crops of it.

    Raises
    ------
    UserError
        The images do not have a view of some plan.
    """
    plans = {each.plan for each in wanted}
    for plan in plans:
        data.images.check(plan)
    if pool := PoolPairs.of(data.images.numbering, len(data.labels), plans):
        return pool
    lists = []
    for validation in {each.validation for each in wanted}:  # a trial of a search does not visit what it holds out
        visits = Visits(len(data.labels), data.images.numbering, data.division(validation).trained)
        same = [each for each in wanted if each.validation == validation]
        for seed, plan, epochs in dict.fromkeys((one.seed, one.plan, one.epochs) for one in same):
            visits.add(seed, epochs, plan)
        lists.append(visits.pairs())
    return union(lists) if len(lists) > 1 else lists[0]
