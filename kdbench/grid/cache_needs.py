"""What the caches of a grid's teachers will have to hold: expected, rather than drawn view by view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kdbench.data.views import Augmentation
from kdbench.experiment.cell import Cell
from kdbench.experiment.protocol import Protocol
from kdbench.grid.grid import Grid, GridTeacher
from kdbench.grid.shapes import DataShape, NetShape
from kdbench.grid.variants import Kind
from kdbench.method import ViewPlan
from kdbench.net import Part
from kdbench.teachers.cache_list import CacheInfo
from kdbench.teachers.demand import Wanted
from kdbench.utils.files import free_space


def expected_pairs(num_images: int, augmentation: Augmentation, plans: Mapping[frozenset[ViewPlan], int]) -> float:
    """Expected number of pairs of image and view that are visited.

    In an epoch, the views of an image share one flip, and each draws one of ``c`` crops by its seed and row. Of the
    ``f * c`` ids of a quarter turn (``f`` flips), one is drawn there by ``m`` rows with probability
    ``(1 - (1 - 1 / c)^m) / f``. Epochs and seeds are independent, and so it stays unseen with the product of what is
    left to 1. Rows that two plans of one seed turn alike are the same draw.

    Parameters
    ----------
    plans
        How many epochs, those of all seeds, see which set of plans.

    Returns
    -------
    float
        What ``len(visited(...))`` is on average.
    """
    crops, flips = augmentation.num_offsets**2, 2 if augmentation.flip else 1
    views = 0.0
    for turn in range(4):
        unseen = 1.0
        for seen, num_epochs in plans.items():
            rows = {row for plan in seen for row, turns in enumerate(plan.quarter_turns) if turns == turn}
            unseen *= (1 - (1 - (1 - 1 / crops) ** len(rows)) / flips) ** num_epochs
        views += flips * crops * (1 - unseen)
    return num_images * views


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheNeed:
    """What the cells that are left want a teacher's cache to hold."""

    teacher: GridTeacher
    views: float
    """Expected pairs of image and view."""
    missing: float
    """Of these, how many are not on disk."""
    row_bytes: int
    """Of one pair and what is kept of it."""
    forwards: int
    """Views that the live teacher would be asked for otherwise."""
    used: bool = True
    """Whether ``--cache auto`` builds and reads it."""

    @property
    def bytes(self) -> float:
        """In all."""
        return self.views * self.row_bytes

    @property
    def missing_bytes(self) -> float:
        """Disk space that is still to be filled."""
        return self.missing * self.row_bytes

    @property
    def worthwhile(self) -> bool:
        """Whether it saves forward passes."""
        return round(self.missing) < self.forwards


def cache_needs(
    grid: Grid, kinds: Sequence[Kind], data: DataShape, shapes: Mapping[str, NetShape], caches: Sequence[CacheInfo]
) -> tuple[CacheNeed, ...]:
    """Find what caches will have to hold, for each teacher of cells that are left and can read one."""
    protocol = grid.session.protocol
    augmentation = Augmentation.of(protocol.rules.augmentation)
    wanted: dict[str, list[tuple[Kind, Wanted]]] = {}
    for kind in kinds:
        want = Wanted.by(kind.cell)
        if kind.cell.teacher and want.cacheable:
            wanted.setdefault(kind.cell.teacher.id, []).append((kind, want))

    def expected(found: Iterable[tuple[Sequence[Cell], Wanted]]) -> float:
        # Of very many cells few differ in this.
        asked = {(cell.seed, want.plan, want.epochs) for cells, want in found for cell in cells}
        seen: dict[tuple[int, int], set[ViewPlan]] = {}
        for seed, plan, epochs in asked:
            for epoch in epochs:
                seen.setdefault((seed, epoch), set()).add(plan)
        return expected_pairs(data.num_images, augmentation, Counter(map(frozenset, seen.values())))

    needs = []
    free = free_space(grid.session.runs)
    for key, found in wanted.items():
        parts: set[Part] = {part for kind, want in found if kind.left for part in want.parts}
        if not parts:
            continue
        teacher = grid.teachers[key]
        views = expected((kind.left, want) for kind, want in found)
        ever = expected(((*kind.left, *kind.done), want) for kind, want in found)
        passes = sum(len(kind.left) * want.plan.num_views * len(want.epochs) for kind, want in found)
        need = CacheNeed(
            teacher=teacher,
            views=views,
            missing=min(views, _missing(ever, _on_disk(teacher, protocol, parts, caches))),
            row_bytes=8 + sum(shapes[teacher.ref.network].row[part] for part in parts),
            forwards=passes * data.num_images,
        )
        # As Sources decides, with each cell in a lockstep group of its own.
        used = not need.missing or (need.worthwhile and need.missing_bytes < free / 2)
        free -= round(need.missing_bytes) if used else 0
        needs.append(replace(need, used=used))
    return tuple(needs)


def _missing(ever: float, on_disk: int) -> float:
    """Expected pairs that a cache lacks of all that cells ever want of it, those that are done included.

    What is on disk is taken to be of these, since it was built for such cells. A difference that chance explains is
    none: seeing one id of a turn makes the others less likely, so the variance of the number is below its mean.
    """
    missing = ever - on_disk
    return missing if missing > 5 * ever**0.5 or not on_disk else 0.0


def _on_disk(teacher: GridTeacher, protocol: Protocol, parts: set[Part], caches: Sequence[CacheInfo]) -> int:
    """Pairs of which a teacher's cache has these parts, under the same rules."""
    data = protocol.rules.data
    rules = data.mean, data.std, protocol.rules.augmentation.pad, protocol.precision
    return sum(
        info.pairs
        for info in caches
        if teacher.card and info.identity and parts <= set(info.parts)
        if (info.identity.network, info.identity.weights) == (teacher.card.network, teacher.card.weights)
        if (info.identity.mean, info.identity.std, info.identity.pad, info.identity.precision) == rules
    )
