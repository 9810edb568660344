"""Estimate what the unfinished cells of a grid need: time, teacher caches and disk.

Nothing is trained and no image is loaded: times are those of finished cells that differ only in their seed, sizes
follow from the shapes of networks and methods, and the contents of caches are an expectation.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kdbench.errors import UserError
from kdbench.experiment.folder import read_record
from kdbench.experiment.predictions import size_of
from kdbench.experiment.test_sets import TEST_SETS
from kdbench.grid.cache_needs import CacheNeed, cache_needs
from kdbench.grid.cell_needs import CellNeed, cell_needs
from kdbench.grid.grid import Grid
from kdbench.grid.shapes import NetShape, data_shape, net_shapes
from kdbench.grid.states import Status
from kdbench.grid.variants import Variant, variants_of
from kdbench.teachers.cache_list import list_caches
from kdbench.utils.device import processor
from kdbench.utils.files import free_space
from kdbench.utils.text import inflected
from kdbench.utils.values import number, whole_number

_MAX_RECORDS = 3
"""Records that are read of each variant."""
_TEXT_BYTES, _CLASS_BYTES, _EPOCH_BYTES = 6000, 20, 350
"""Size of a cell's record and configuration, of a class in it, and of an epoch's line of metrics, measured on some."""
_NUM_STATES = 2
"""Saved states that a cell in progress has at most: a new one is written before the previous one is deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The seconds that one cell of each variant takes on one device."""

    device: str
    """Empty where nothing is known."""
    cells: Mapping[Variant, float]
    """Training and evaluation, from records; training only where it was measured."""
    measured: frozenset[Variant] = frozenset()
    """Variants whose steps were timed."""
    failed: Mapping[Variant, str] = field(default_factory=dict)
    """Variants whose steps could not be timed, with the reasons."""
    memory: Mapping[Variant, float] = field(default_factory=dict)
    """The peak memory of a cell's training on a GPU, in bytes, from records and where it was measured."""
    views: Mapping[str, float] | None = None
    """Seconds to cache one view, by `GridTeacher.sized`; None where that was not measured."""
    images_per_second: float | None = None
    """Image files that become batches on this machine; None where that was not measured."""
    starved: frozenset[Variant] = frozenset()
    """Measured variants that wait for images."""
    elsewhere: int = 0
    """Number of records of other devices, which are left out."""
    parallel: int = 1
    """Workers that this machine has room for with as many threads, or a GPU, for each."""


def speed(variants: Sequence[Variant], runs: Path, device: str | None = None) -> Speed:
    """Read how long finished cells took.

    Parameters
    ----------
    device
        Only records of this device count, named as by :func:`device_words`; by default the one with most records.

    """
    timings: list[tuple[Variant, str, float]] = []
    parallel: dict[str, int] = {}
    peaks: dict[Variant, list[float]] = {}
    for variant in variants:
        for cell in variant.done[:_MAX_RECORDS]:
            # A record that cannot be used is named by the state of its cell.
            with contextlib.suppress(UserError, LookupError, TypeError, ValueError):
                record = read_record(cell.folder(runs), cell) or {}
                cost, environment = record["cost"], record["environment"]
                device_type, threads = environment["device_type"], environment["threads"]
                words = device_words(environment["device"], device_type, threads)
                seconds = number(cost["train_seconds"], low=0.0) + number(cost["evaluate_seconds"], low=0.0)
                parallel[words] = parallel_workers(device_type, whole_number(threads, low=1))
                timings.append((variant, words, seconds))
                if device_type == "cuda" and cost["cells_together"] == 1:
                    peaks.setdefault(variant, []).append(2**20 * number(cost["peak_memory_mb"], low=0.0))
    counts = Counter(words for _, words, _ in timings)
    chosen = device or (counts.most_common(1)[0][0] if counts else "")
    durations: dict[Variant, list[float]] = {}
    for variant, words, seconds in timings:
        if words == chosen:
            durations.setdefault(variant, []).append(seconds)
    return Speed(
        device=chosen,
        cells={variant: statistics.median(several) for variant, several in durations.items()},
        memory={variant: max(several) for variant, several in peaks.items()},
        elsewhere=len(timings) - counts[chosen],
        parallel=parallel.get(chosen, 1),
    )


def parallel_workers(device_type: str, threads: int) -> int:
    """Return how many workers this machine has room for, with a GPU or a number of threads for each."""
    if device_type == "cuda":
        return max(1, torch.cuda.device_count())
    return max(1, (os.cpu_count() or 1) // threads)


def this_device(device: torch.device) -> str:
    """Name a device of this machine as :func:`device_words` does."""
    return device_words(processor(device), device.type, torch.get_num_threads())


def device_words(name: str, device_type: str, threads: int) -> str:
    """Name a device; the name of a CPU includes its threads, since its speed depends on them."""
    return name if device_type != "cpu" else f"{name} with {threads} {inflected('thread', threads)}"


@dataclass(frozen=True, slots=True)
class Disk:
    """The bytes that unfinished cells will fill."""

    cells: int
    """Left by the cells, predictions among it, and by the teachers that are trained."""
    predictions: int
    """Left by the cells as predictions for the test images."""
    caches: float
    """Added to the caches by ``--cache auto``, beyond what is on disk."""
    state: int
    """Saved states of one cell in progress, at most."""
    free: int
    num_cells: int

    @property
    def needed(self) -> float:
        """Compute the total number of bytes."""
        return self.cells + self.caches + self.state


def disk(
    grid: Grid,
    variants: Sequence[Variant],
    shapes: Mapping[str, NetShape],
    caches: Sequence[CacheNeed],
    needs: Mapping[Variant, CellNeed],
    num_classes: int,
) -> Disk:
    """Estimate the disk space that is still to be filled."""
    num_cells = sum(len(variant.left) for variant in variants)
    given, dataset = grid.session.given, grid.session.protocol.dataset
    num_test = len(given.test_labels) if given else TEST_SETS.get(dataset, (0, 0))[0]
    predictions = num_cells * size_of(num_test, num_classes)
    record = _TEXT_BYTES + _CLASS_BYTES * num_classes
    text = {variant: record + _EPOCH_BYTES * variant.cell.protocol.epochs for variant in variants}
    cells = sum(len(variant.left) * (shapes[variant.cell.student].bytes + text[variant]) for variant in variants)
    # A teacher has a copy of the weights that its cell leaves.
    cells += sum(shapes[cell.student].bytes for cell in grid.to_train)
    return Disk(
        cells=cells + predictions,
        predictions=predictions,
        caches=sum(need.missing_bytes for need in caches if need.used),
        state=_NUM_STATES * max((need.state for need in needs.values()), default=0),
        free=free_space(grid.session.runs),
        num_cells=num_cells,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GridEstimate:
    """All that is known of what a grid still needs."""

    variants: tuple[Variant, ...]
    """Variants with unfinished cells."""
    caches: tuple[CacheNeed, ...]
    needs: Mapping[Variant, CellNeed]
    """Of the variants whose method is built without values."""
    unsupported: Mapping[str, str]
    """Why methods do not support pairs or images, by ``"METHOD PAIR"``."""
    disk: Disk
    speed: Speed

    @classmethod
    def of(cls, grid: Grid, statuses: Iterable[Status], *, device: str | None = None) -> GridEstimate:
        """Estimate what cells need.

        Parameters
        ----------
        statuses
            States of the grid's cells and of those that train its teachers.
        device
            Only records of this device count, named as by :func:`device_words`; by default the one with most records.

        Raises
        ------
        UserError
            A network cannot be used.
        """
        session = grid.session
        later = [slot.stand_in for slot in grid.waiting]
        searched = grid.file.search.spaces if grid.file.search else {}
        variants, data = variants_of(statuses, later, searched), data_shape(session)
        left = tuple(variant for variant in variants if variant.left)
        shapes = net_shapes(grid, data)
        caches = cache_needs(grid, variants, data, shapes, list_caches(session.runs))
        needs, unsupported = cell_needs(grid, left, data)
        return cls(
            variants=left,
            caches=caches,
            needs=needs,
            unsupported=unsupported,
            disk=disk(grid, left, shapes, caches, needs, data.num_classes),
            speed=speed(left, session.runs, device),
        )

    @property
    def is_streamed(self) -> bool:
        """Whether the images are decoded while training."""
        return any(variant.cell.protocol.rules.augmentation.crop == "resized" for variant in self.variants)

    @property
    def to_build(self) -> tuple[CacheNeed, ...]:
        """Return the caches that ``--cache auto`` will build or extend."""
        return tuple(need for need in self.caches if need.used and need.missing)

    @property
    def unknown(self) -> tuple[Variant, ...]:
        """Return the variants whose time is unknown, but for those that could not be timed."""
        speed = self.speed
        return tuple(variant for variant in self.variants if variant not in speed.cells.keys() | speed.failed.keys())

    @property
    def seconds(self) -> float:
        """Compute how long one worker takes for all that is known; half-trained cells count in full."""
        cells = sum(len(variant.left) * self.speed.cells.get(variant, 0.0) for variant in self.variants)
        views = self.speed.views or {}
        return cells + sum(need.missing * views.get(need.teacher.sized, 0.0) for need in self.to_build)
