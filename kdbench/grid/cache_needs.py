"""Estimate what the caches of a grid's teachers will hold, without drawing the views."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kdbench.data.images import DataShape
from kdbench.data.views import CropIds, ViewIds, numbering_of
from kdbench.engine.session import Session
from kdbench.experiment.cell import Cell
from kdbench.experiment.protocol import Protocol
from kdbench.grid.grid import Grid, GridTeacher
from kdbench.grid.shapes import NetShape, num_trained
from kdbench.grid.variants import Variant
from kdbench.method import ViewPlan
from kdbench.net import Part
from kdbench.teachers.cache_list import CacheInfo
from kdbench.teachers.demand import Wanted, unsupported
from kdbench.teachers.pairs import PoolPairs, stored_parts
from kdbench.utils.files import free_space


def expected_pairs(num_images: int, numbering: ViewIds, plans: Mapping[frozenset[ViewPlan], int]) -> float:
    """Compute the expected number of distinct (image, view) pairs that epochs visit.

    In an epoch, the views of an image share one flip, and each draws one of ``c`` crops by its seed and row. Of the
    ``f * c`` ids of a rotation (``f`` flips), ``m`` rows with that rotation draw a given one with probability
    ``(1 - (1 - 1 / c)^m) / f``. Epochs and seeds are independent, so the probability that an id is never drawn is the
    product of the complements. Rows of two plans with the same seed and rotation are the same draw, and where the rows
    of an image share a crop, there is one.

    Parameters
    ----------
    plans
        Number of epochs, over all seeds, that see each set of plans.

    Returns
    -------
    float
        The mean of ``len(visited(...))``.
    """
    crops, flips = numbering.num_crops, numbering.num_flips
    views = 0.0
    for rotation in range(4):
        unseen = 0.0  # the logarithm of its probability: of many crops, each is seldom seen
        for plan_set, num_epochs in plans.items():
            rows = {row for plan in plan_set for row, turns in enumerate(plan.quarter_turns) if turns == rotation}
            draws = min(1, len(rows)) if numbering.rows_share_a_crop else len(rows)
            seen = -math.expm1(draws * math.log1p(-1 / crops)) if crops > 1 else float(draws > 0)
            unseen += num_epochs * (math.log1p(-seen / flips) if seen < flips else -math.inf)
        views += -flips * crops * math.expm1(unseen)
    return num_images * views


def epochs_by_plans(reading: Iterable[tuple[Sequence[Cell], Wanted]]) -> Counter[frozenset[ViewPlan]]:
    """Count the epochs, over all seeds, that see each set of plans, in time that grows with the cells alone."""
    visits: list[tuple[ViewPlan, range]] = []
    by_seed: dict[int, set[int]] = {}
    for cells, want in reading:
        visit = want.plan, want.epochs
        if visit not in visits:
            visits.append(visit)
        number = visits.index(visit)
        for cell in cells:
            by_seed.setdefault(cell.seed, set()).add(number)
    counts: Counter[frozenset[ViewPlan]] = Counter()
    for numbers, num_seeds in Counter(map(frozenset, by_seed.values())).items():
        seen = [visits[number] for number in numbers]
        # Between two edges every epoch sees the same plans.
        edges = sorted({edge for _, epochs in seen for edge in (epochs.start, epochs.stop)})
        for start, stop in itertools.pairwise(edges):
            if plans := frozenset(plan for plan, epochs in seen if start in epochs):
                counts[plans] += num_seeds * (stop - start)
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheNeed:
    """What the unfinished cells of a grid need of one teacher's cache."""

    teacher: GridTeacher
    views: float
    """Expected number of (image, view) pairs."""
    missing: float
    """Expected number of these that are not on disk."""
    row_bytes: int
    """Bytes that one pair and its outputs take."""
    forwards: int
    """Views that the live teacher would forward without a cache."""
    largest_reader: str = ""
    """The method without which the cache would be smallest; empty where it is the only one."""
    bytes_without: float = 0.0
    """Size that the complete cache would have without that method."""
    used: bool = True
    """Whether ``--cache auto`` builds and reads it."""

    @property
    def bytes(self) -> float:
        """Compute the size of the complete cache."""
        return self.views * self.row_bytes

    @property
    def missing_bytes(self) -> float:
        """Compute the disk space that is still to be filled."""
        return self.missing * self.row_bytes

    @property
    def worthwhile(self) -> bool:
        """Return whether the cache saves forward passes."""
        return round(self.missing) < self.forwards


def cache_needs(
    grid: Grid,
    variants: Sequence[Variant],
    data: DataShape,
    shapes: Mapping[str, NetShape],
    caches: Sequence[CacheInfo],
) -> tuple[CacheNeed, ...]:
    """Estimate the cache of each teacher that unfinished cells can read from a cache.

    There is none where no view is seen twice. A cache of a pool has a row for every crop of every image.
    """
    protocol = grid.session.protocol
    numbering = numbering_of(protocol.rules.augmentation)
    if not numbering.repeats:
        return ()
    readers: dict[str, list[tuple[Variant, Wanted]]] = {}
    for variant in variants:
        want = Wanted.by(variant.cell)
        if want.cacheable and want.fits(data.image_size) and not unsupported(variant.cell):
            for network in grid.networks(variant.cell):
                readers.setdefault(network.ref.id, []).append((variant, want))

    def expected(reading: Iterable[tuple[Sequence[Cell], Wanted]]) -> float:
        reading = list(reading)
        pool = PoolPairs.of(numbering, data.num_images, [want.plan for cells, want in reading if cells])
        return len(pool) if pool is not None else _expected(grid.session, numbering, reading)

    needs = []
    free = free_space(grid.session.runs)
    for teacher_id, reading in readers.items():
        parts: set[Part] = {part for variant, want in reading if variant.left for part in want.parts}
        if not parts:
            continue
        teacher = grid.teachers[teacher_id]
        views = expected((variant.left, want) for variant, want in reading)
        shape = shapes[teacher.sized]
        on_disk = _on_disk(teacher, protocol, stored_parts(parts, numbering, shape.widths), caches)
        missing = views
        if on_disk:
            missing = _missing(expected(((*v.left, *v.done), want) for v, want in reading), on_disk)
        row_bytes = _row_bytes(parts, numbering, shape)
        without = {
            method: expected((v.left, want) for v, want in reading if v.cell.method != method)
            * _row_bytes(
                {part for v, want in reading if v.left and v.cell.method != method for part in want.parts},
                numbering,
                shape,
            )
            for method in dict.fromkeys(v.cell.method for v, _ in reading if v.left)
        }
        largest = min(without, key=lambda method: without[method]) if len(without) > 1 else ""
        forwards = sum(
            len(variant.left)
            * want.plan.num_views
            * len(want.epochs)
            * num_trained(grid.session, variant.cell.protocol)
            for variant, want in reading
        )
        need = CacheNeed(
            teacher=teacher,
            views=views,
            missing=min(views, missing),
            row_bytes=row_bytes,
            forwards=forwards,
            largest_reader=largest,
            bytes_without=without[largest] if largest else 0.0,
        )
        # As Sources decides, with each cell in a lockstep group of its own.
        used = not need.missing or (need.worthwhile and need.missing_bytes < free / 2)
        free -= round(need.missing_bytes) if used else 0
        needs.append(replace(need, used=used))
    return tuple(needs)


def _expected(session: Session, numbering: ViewIds, reading: Sequence[tuple[Sequence[Cell], Wanted]]) -> float:
    """Compute the expected number of pairs, of cells that may hold out different shares of the images.

    What a share holds out, every larger one holds out as well.
    """
    protocols = {want.validation: cells[0].protocol for cells, want in reading if cells}
    total, counted = 0.0, 0
    for share in sorted(protocols, reverse=True):
        images = num_trained(session, protocols[share])
        visiting = [(cells, want) for cells, want in reading if want.validation <= share]
        total += expected_pairs(images - counted, numbering, epochs_by_plans(visiting))
        counted = images
    return total


def _row_bytes(parts: set[Part], numbering: ViewIds, shape: NetShape) -> int:
    """Return the bytes that one pair and its outputs take; the cache of a pool keeps no list of pairs."""
    listed = 0 if isinstance(numbering, CropIds) and numbering.pool else 8
    return listed + sum(shape.row[part] for part in stored_parts(parts, numbering, shape.widths))


def _missing(total: float, on_disk: int) -> float:
    """Estimate how many of the pairs that all cells visit, finished ones included, a cache lacks.

    What is on disk is taken to be of these, since it was built for such cells. A difference that chance explains
    counts as none: seeing one id of a rotation makes the others less likely, so the variance is below the mean.
    """
    missing = total - on_disk
    return missing if missing > 5 * total**0.5 else 0.0


def _on_disk(teacher: GridTeacher, protocol: Protocol, parts: Collection[Part], caches: Sequence[CacheInfo]) -> int:
    """Count the pairs whose parts a teacher's cache holds under the same rules."""
    return sum(
        info.pairs
        for info in caches
        if teacher.card and info.identity and set(parts) <= set(info.parts)
        if info.identity.is_under(teacher.card, protocol)
    )
