"""What cells will visit and read of a teacher, known before they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.data.batches import DeviceData
from kdbench.experiment.cell import Cell
from kdbench.experiment.registry import load_method
from kdbench.method import ViewPlan
from kdbench.net import Part
from kdbench.teachers.cache import STORED, Visits
from kdbench.teachers.segments import Pairs


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one cell, or one method under one seed, visits and reads of a teacher."""

    seed: int
    plan: ViewPlan
    parts: frozenset[Part]
    epochs: range

    @classmethod
    def by(cls, cell: Cell) -> Wanted:
        """What a cell wants."""
        kind, config = load_method(cell.method), cell.settings.config
        return cls(cell.seed, kind.views(config), kind.all_reads(config).teacher, cell.epochs)

    @property
    def cacheable(self) -> bool:
        """Whether a cache keeps all of it."""
        return self.parts <= STORED and not self.plan.num_strong


def visited(wanted: Sequence[Wanted], data: DeviceData) -> Pairs:
    """Return all pairs of image and view that are visited, ascending."""
    visits = Visits(len(data.labels), data.images.augmentation)
    for seed, plan, epochs in dict.fromkeys((one.seed, one.plan, one.epochs) for one in wanted):
        visits.add(seed, epochs, plan)
    return visits.pairs()
