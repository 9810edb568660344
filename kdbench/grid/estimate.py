"""What the cells of a grid that are left will need: time, teacher caches and disk.

Nothing is trained and no image is loaded for it: times are those of finished cells of the same kind, sizes follow
from the shapes of networks, and what caches will hold is an expectation.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kdbench.experiment.folder import read_record
from kdbench.grid.cache_needs import CacheNeed, cache_needs
from kdbench.grid.grid import Grid
from kdbench.grid.shapes import NetShape, data_shape, net_shapes
from kdbench.grid.states import Status
from kdbench.grid.variants import Kind, kinds_of
from kdbench.teachers.cache_list import list_caches
from kdbench.utils.device import processor
from kdbench.utils.files import free_space

_RECORDS = 3
"""Records that are read of a kind of cell."""
_TEXT_BYTES, _EPOCH_BYTES = 6000, 300
"""Of a cell's record and configuration, and of an epoch's line of metrics; found by looking at some."""
_STATES = 2
"""Saved states that a cell in progress has at most: a new one is written before the one before it is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds of one cell of each kind, on one device."""

    device: str
    """Empty where nothing is known."""
    cells: Mapping[Kind, float]
    """Training and evaluation, from records; training alone where it was measured."""
    measured: frozenset[Kind] = frozenset()
    """Those of the kinds that were measured."""
    views: Mapping[str, float] | None = None
    """Seconds of one view of a cache that is built, by the teacher's network; None where that was not measured."""
    elsewhere: int = 0
    """Records of other devices, which are left out."""


def speed(kinds: Sequence[Kind], runs: Path, device: str | None = None) -> Speed:
    """Read how long finished cells took.

    Parameters
    ----------
    device
        The one whose records count, in the words of :func:`device_words`; by default the one that has most.

    Raises
    ------
    UserError
        A record is damaged.
    """
    found: list[tuple[Kind, str, float]] = []
    for kind in kinds:
        for cell in kind.done[:_RECORDS]:
            record = read_record(cell.folder(runs), cell)
            assert record is not None, cell
            cost, made = record["cost"], record["environment"]
            words = device_words(made["device"], made["device_type"], made["threads"])
            found.append((kind, words, cost["train_seconds"] + cost["evaluate_seconds"]))
    counts = Counter(words for _, words, _ in found)
    chosen = device or (counts.most_common(1)[0][0] if counts else "")
    seconds: dict[Kind, list[float]] = {}
    for kind, words, each in found:
        if words == chosen:
            seconds.setdefault(kind, []).append(each)
    return Speed(
        device=chosen,
        cells={kind: statistics.median(each) for kind, each in seconds.items()},
        elsewhere=len(found) - counts[chosen],
    )


def this_device(device: torch.device) -> str:
    """A device of this machine, in the words that records are told apart by."""
    return device_words(processor(device), device.type, torch.get_num_threads())


def device_words(name: str, kind: str, threads: int) -> str:
    """A device for people; the speed of a CPU is that of its threads."""
    return name if kind != "cpu" else f"{name} with {threads} thread{'' if threads == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes, and how many cells they are for."""

    cells: int
    """That the cells leave, and the teachers that are trained."""
    caches: float
    """That ``--cache auto`` fills, beyond what is on disk."""
    state: int
    """Of one cell in progress, at most; what a method keeps of its own is not in it."""
    free: int
    num_cells: int

    @property
    def needed(self) -> float:
        """In all."""
        return self.cells + self.caches + self.state


def disk(grid: Grid, kinds: Sequence[Kind], shapes: Mapping[str, NetShape], caches: Sequence[CacheNeed]) -> Disk:
    """Estimate the disk space that is still to be filled."""
    text = {kind: _TEXT_BYTES + _EPOCH_BYTES * kind.cell.protocol.epochs for kind in kinds}
    cells = sum(len(kind.left) * (shapes[kind.cell.student].bytes + text[kind]) for kind in kinds)
    # A teacher has a copy of the weights that its cell leaves.
    cells += sum(shapes[cell.student].bytes for cell in grid.to_train)
    # Weights and as much momentum.
    states = [_STATES * 2 * 4 * shapes[kind.cell.student].parameters for kind in kinds]
    return Disk(
        cells=cells,
        caches=sum(need.missing_bytes for need in caches if need.used),
        state=max(states, default=0),
        free=free_space(grid.session.runs),
        num_cells=sum(len(kind.left) for kind in kinds),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GridEstimate:
    """All that is known of what a grid still needs."""

    kinds: tuple[Kind, ...]
    """Those that have cells left."""
    caches: tuple[CacheNeed, ...]
    disk: Disk
    speed: Speed

    @classmethod
    def of(cls, grid: Grid, statuses: Iterable[Status], *, device: str | None = None) -> GridEstimate:
        """Estimate what cells need.

        Parameters
        ----------
        statuses
            Of the grid's cells and of those that train its teachers.
        device
            The one whose records count, in the words of :func:`device_words`; by default the one that has most.

        Raises
        ------
        UserError
            A network cannot be used, or a record is damaged.
        """
        session = grid.session
        kinds, data = kinds_of(statuses), data_shape(session)
        left = tuple(kind for kind in kinds if kind.left)
        shapes = net_shapes(grid, data)
        caches = cache_needs(grid, kinds, data, shapes, list_caches(session.runs))
        return cls(
            kinds=left,
            caches=caches,
            disk=disk(grid, left, shapes, caches),
            speed=speed(left, session.runs, device),
        )

    @property
    def to_build(self) -> tuple[CacheNeed, ...]:
        """The caches that ``--cache auto`` will build, or build on."""
        return tuple(need for need in self.caches if need.used and need.missing)

    @property
    def unknown(self) -> tuple[Kind, ...]:
        """Kinds of cells whose time is not known."""
        return tuple(kind for kind in self.kinds if kind not in self.speed.cells)

    @property
    def seconds(self) -> float:
        """Of one worker that does all that is known; a cell that was begun counts in full."""
        cells = sum(len(kind.left) * self.speed.cells.get(kind, 0.0) for kind in self.kinds)
        views = self.speed.views or {}
        return cells + sum(need.missing * views.get(need.teacher.ref.network, 0.0) for need in self.to_build)
