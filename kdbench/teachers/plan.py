"""Which cells read a teacher cache and which ask the live teacher; has the cache built where that is decided."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from kdbench.data.batches import DeviceData
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import CONFIG, RECORD, STATE
from kdbench.experiment.registry import load_method
from kdbench.method import ViewPlan
from kdbench.net import Part
from kdbench.teachers.cache import STORED, Estimate, TeacherCache, Visits
from kdbench.teachers.cards import TeacherCard
from kdbench.teachers.outputs import Kind, TeacherSource
from kdbench.teachers.segments import Pairs
from kdbench.utils.device import forward_batch
from kdbench.utils.files import free_space
from kdbench.utils.signals import Stop

if TYPE_CHECKING:
    from kdbench.engine.session import Session

CacheMode = Literal["auto", "on", "off", "ready"]
"""``ready``: from a cache that has all already; it is what ``auto`` means once others have decided what to build."""


class Watch:
    """Is told how the building of a cache goes; does nothing itself."""

    def estimate(self, teacher: str, estimate: Estimate) -> None:
        """The work is about to begin."""

    def progress(self, done: int, total: int, seconds_left: float) -> None:
        """So many pairs are done."""

    def waiting(self, teacher: str) -> None:
        """Another process is building this cache."""


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
        return cls(cell.seed, kind.views(config), kind.all_needs(config), cell.epochs)

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


@dataclass(frozen=True, slots=True)
class Demand:
    """All that some cells will ask one teacher for, and the cache that should have it."""

    card: TeacherCard
    cache: TeacherCache
    pairs: Pairs
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, session: Session, card: TeacherCard, wanted: Sequence[Wanted]) -> Demand:
        """Add up what is wanted of a teacher.

        Raises
        ------
        UserError
            The cache is damaged.
        """
        cache = session.teacher_cache(card)
        cache.refresh()  # other processes may have added to it
        pairs = visited(wanted, session.device_data)
        parts: set[Part] = {part for one in wanted for part in one.parts}
        return cls(card, cache, pairs, tuple(sorted(parts)))

    def build(self, session: Session, watch: Watch) -> TeacherCache:
        """Let the cache have all of it.

        Raises
        ------
        UserError
            It does not fit on the disk, or what is there is not what the teacher says.
        Interrupted
            A signal came; what is built so far is kept.
        """
        live, data, name = session.live_teacher(self.card), session.device_data, self.card.spec
        with Stop() as stop:
            whole = self.cache.build(
                self.pairs,
                self.parts,
                lambda chunk: live.forward(data, chunk),
                batch=forward_batch(session.device),
                announce=lambda estimate: watch.estimate(name, estimate),
                observe=watch.progress,
                waiting=lambda: watch.waiting(name),
                stop=stop,
                scheduler=session.scheduler,
            )
        if not whole:
            assert stop.signum is not None
            raise Interrupted("the cache is saved as far as it is built: type the same command to go on", stop.signum)
        self.cache.check(lambda chunk: live.forward(data, chunk))
        return self.cache


def by_teacher(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Cells by the id of their teacher, those without one under the empty text."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.teacher.id if cell.teacher else "", []).append(cell)
    return found


def lockstep_groups(cells: Sequence[Cell], together: int | None) -> list[list[Cell]]:
    """Cells of one seed, at most ``together`` of them, in the order in which they were given."""
    by_seed: dict[int, list[Cell]] = {}
    for cell in {cell.id: cell for cell in cells}.values():
        by_seed.setdefault(cell.seed, []).append(cell)
    size = together or len(cells)
    return [group[start : start + size] for group in by_seed.values() for start in range(0, len(group), size)]


@final
class Sources:
    """The source of teacher outputs of each cell. Decided when the first cell that needs a teacher asks."""

    def __init__(self, session: Session, groups: Sequence[Sequence[Cell]], mode: CacheMode, watch: Watch) -> None:
        self._session, self._groups, self._mode, self._watch = session, groups, mode, watch
        self._caches: dict[str, TeacherCache | UserError] | None = None
        self._kinds: dict[str, Kind] = {}
        self._made: dict[tuple[str, Kind], TeacherSource] = {}

    def of(self, cell: Cell) -> TeacherSource | None:
        """The source of a cell's teacher outputs; None for a cell without a teacher.

        Raises
        ------
        UserError
            The teacher or its cache cannot be used.
        """
        if cell.teacher is None:
            return None
        if self._caches is None:
            self._caches = {}
            self._decide(self._caches)
        teacher, kind = cell.teacher.id, self._kinds.get(cell.id, "live")
        cache = self._caches[teacher] if kind == "cache" else None
        if isinstance(cache, UserError):
            raise cache
        if (teacher, kind) not in self._made:
            live = self._session.live_teacher(self._session.card_of(cell))
            self._made[teacher, kind] = TeacherSource(live, cache)
        return self._made[teacher, kind]

    def prepare(self) -> None:
        """Build the caches that the cells should have.

        Raises
        ------
        UserError
            One cannot be built.
        """
        self._caches = {}
        self._decide(self._caches)
        for cache in self._caches.values():
            if isinstance(cache, UserError):
                raise cache

    def _decide(self, caches: dict[str, TeacherCache | UserError]) -> None:
        if self._mode == "off":
            return
        runs = self._session.runs
        left = [cell for group in self._groups for cell in group if not (cell.folder(runs) / RECORD).exists()]
        for teacher, own in by_teacher([cell for cell in left if cell.teacher]).items():
            kept = [cell for cell in own if Wanted.by(cell).cacheable]
            begun = {cell.id: _begun(cell.folder(runs)) for cell in kept} if self._mode != "on" else {}
            kept = [cell for cell in kept if begun.get(cell.id) != "live"]
            if not kept:
                continue
            try:
                card = self._session.card_of(kept[0])
                demand = Demand.of(self._session, card, [Wanted.by(cell) for cell in kept])
                if self._mode != "on" and not any(begun.values()) and not self._worth(demand, kept, own):
                    continue
                caches[teacher] = demand.build(self._session, self._watch)
            except UserError as error:
                caches[teacher] = error
            self._kinds |= dict.fromkeys((cell.id for cell in kept), "cache")

    def _worth(self, demand: Demand, kept: list[Cell], own: list[Cell]) -> bool:
        """Whether the cache has all, or building it saves forward passes and takes less than half of the free disk.

        Where others have decided what to build, only the first counts.
        """
        missing = demand.cache.missing(demand.pairs, demand.parts)
        to_build = len(np.unique(np.concatenate([*missing.values(), demand.pairs[:0]])))
        if not to_build or self._mode == "ready":
            return not to_build
        net = self._session.live_teacher(demand.card).teacher.net
        widths = {"logits": net.num_classes, "penultimate": net.width}
        needed = sum(len(missing[part]) * widths[part] * 4 for part in demand.parts)
        return to_build < self._live_forwards(kept, own) and needed < free_space(self._session.runs) / 2

    def _live_forwards(self, kept: list[Cell], own: list[Cell]) -> int:
        """Views that the live teacher would forward for ``kept``, beyond those that other cells ask it for anyway."""
        session, total = self._session, 0
        ids = {cell.id for cell in kept}
        for group in self._groups:
            here = [cell for cell in own if cell in group]
            ours: set[tuple[ViewPlan, int]] = set()
            others: set[tuple[ViewPlan, int]] = set()
            for cell in here:
                visits, want = (ours if cell.id in ids else others), Wanted.by(cell)
                visits |= {(want.plan, epoch) for epoch in want.epochs}
            total += sum(plan.num_views for plan, _ in ours - others)
        return total * len(session.dataset.train_labels)


def _begun(folder: Path) -> Kind | None:
    """Where the teacher outputs of an unfinished cell came from so far: it goes on with them, bit for bit."""
    if not (folder / STATE).exists() or not (folder / CONFIG).exists():
        return None
    kind = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8")).get("teacher_outputs")
    return kind if kind in ("live", "cache") else None
