"""Which cells read a teacher cache and which ask the live teacher; has the cache built where that is decided."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from kdbench.data.held_out import num_trained
from kdbench.data.views import numbering_of
from kdbench.errors import Interrupted
from kdbench.experiment.cell import Cell, TeacherRef
from kdbench.experiment.folder import CONFIG, RECORD, STATE
from kdbench.method import ViewPlan
from kdbench.net import Part
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cards import TeacherCard
from kdbench.teachers.demand import Wanted, unsupported, visited
from kdbench.teachers.outputs import Kind, Query
from kdbench.teachers.pairs import PairSet, PoolPairs, stored_parts, union
from kdbench.teachers.sources import TeacherSource
from kdbench.teachers.store import TeacherStore
from kdbench.teachers.watch import Watch
from kdbench.utils.files import free_space
from kdbench.utils.reading import Unreadable, read_toml
from kdbench.utils.signals import Stop
from kdbench.utils.values import argument, choice

CacheMode = Literal["auto", "on", "off", "ready"]
"""``ready``: from a cache that has all already; it is what ``auto`` means once others have decided what to build."""


@dataclass(frozen=True, slots=True)
class Demand:
    """All that some cells will ask one teacher for, and the cache that should have it."""

    card: TeacherCard
    cache: TeacherCache
    pairs: PairSet
    parts: tuple[Part, ...]
    """What the cache stores of them."""

    @classmethod
    def of(cls, store: TeacherStore, card: TeacherCard, wanted: Sequence[Wanted]) -> Demand:
        """Add up what is wanted of a teacher.

        Raises
        ------
        UserError
            The cache is damaged, or the images do not have a view that is wanted.
        """
        cache = store.cache(card)
        cache.refresh()  # other processes may have added to it
        pairs = visited(wanted, store.data.on_device)
        parts = frozenset(part for one in wanted for part in one.parts)
        if isinstance(pairs, PoolPairs):
            parts = stored_parts(parts, cache.identity.numbering, store.live(card).teacher.net.widths)
        return cls(card, cache, pairs, tuple(sorted(parts)))

    def build(self, store: TeacherStore, watch: Watch) -> TeacherCache:
        """Let the cache have all of it.

        Raises
        ------
        UserError
            It does not fit on the disk, or what is there is not what the teacher says.
        Interrupted
            A signal came; what is built so far is kept.
        """
        query = Query(store.live(self.card), store.data.on_device)
        with Stop() as stop:
            whole = self.cache.build(
                self.pairs,
                self.parts,
                query,
                batch=query.batch,
                name=self.card.spec,
                watch=watch,
                stop=stop,
                scheduler=store.scheduler,
            )
        if not whole:
            assert stop.signum is not None
            raise Interrupted("the cache is saved as far as it is built: type the same command to resume", stop.signum)
        self.cache.check(query)
        return self.cache


@final
class _Failure:
    """Why a teacher has no cache, or what a cell wants of it is unclear; the cells that need to know fail with it."""

    def __init__(self, error: Exception) -> None:
        self._error, self._trace = error, error.__traceback__

    def again(self) -> Exception:
        """Return the error as it was first raised, without the frames of later raises."""
        return self._error.with_traceback(self._trace)


@final
class Sources:
    """The source of teacher outputs of each cell. Decided when the first cell that needs a teacher asks."""

    def __init__(self, store: TeacherStore, groups: Sequence[Sequence[Cell]], mode: CacheMode, watch: Watch) -> None:
        with argument("--cache"):
            choice(mode, typing.get_args(CacheMode))
        self._store, self._groups, self._mode, self._watch = store, groups, mode, watch
        self._caches: dict[str, TeacherCache | _Failure] | None = None
        self._kinds: dict[str, Kind] = {}
        self._unclear: dict[str, _Failure] = {}
        """Cells of which it cannot be said what they want of their teacher: no other cell fails with them."""

    def of(self, cell: Cell) -> TeacherSource | None:
        """Return the source of a cell's teacher outputs; None for a cell without a teacher.

        Raises
        ------
        Exception
            The teacher or its cache cannot be used. A cache that could not be built fails every cell that should read
            it, whatever the error was: none of them is trained from the live teacher instead.
        """
        if cell.teacher is None:
            return None
        caches = self._decided()
        if cell.id in self._unclear:
            raise self._unclear[cell.id].again()
        kind = self._kinds.get(cell.id, "live")
        for network in _networks(cell) if kind == "cache" else ():
            cache = caches[network.id]
            if isinstance(cache, _Failure):
                raise cache.again()
        return self._store.source(cell.teacher, kind)

    def prepare(self) -> None:
        """Build the caches that the cells should have.

        Raises
        ------
        Exception
            One cannot be built; the others are.
        """
        self._caches = None
        for cache in self._decided().values():
            if isinstance(cache, _Failure):
                raise cache.again()

    def _decided(self) -> dict[str, TeacherCache | _Failure]:
        if self._caches is None:
            self._caches = self._decide()
        return self._caches

    def _decide(self) -> dict[str, TeacherCache | _Failure]:
        caches: dict[str, TeacherCache | _Failure] = {}
        if self._mode == "off":
            return caches
        runs = self._store.runs
        repeats = numbering_of(self._store.protocol.rules.augmentation).repeats
        left = [cell for group in self._groups for cell in group if not (cell.folder(runs) / RECORD).exists()]
        cached: dict[str, set[str]] = {}
        readers_of = _by_network([cell for cell in left if self._is_clear(cell)])
        for teacher, readers in readers_of.items():
            kept = [cell for cell in readers if Wanted.by(cell).cacheable]
            begun = {cell.id: _begun(cell.folder(runs)) for cell in kept} if self._mode != "on" else {}
            kept = [cell for cell in kept if begun.get(cell.id) != "live"]
            if not kept or (self._mode != "on" and not repeats and not any(begun.values())):
                continue
            try:
                card = self._store.card(teacher)
                demand = Demand.of(self._store, card, [Wanted.by(cell) for cell in kept])
                if self._mode != "on" and not any(begun.values()) and not self._worth(demand, kept, readers):
                    continue
                caches[teacher.id] = demand.build(self._store, self._watch)
            except Exception as error:
                caches[teacher.id] = _Failure(error)
            cached[teacher.id] = {cell.id for cell in kept}
        for readers in readers_of.values():
            for cell in readers:  # of an ensemble, all members or none
                if all(cell.id in cached.get(network.id, ()) for network in _networks(cell)):
                    self._kinds[cell.id] = "cache"
        return caches

    def _is_clear(self, cell: Cell) -> bool:
        """Return whether it can be said what a cell wants, and the images have it; if not, it will fail by itself."""
        try:
            return not unsupported(cell) and Wanted.by(cell).fits(self._store.data.dataset.shape.image_size)
        except Exception as error:
            self._unclear[cell.id] = _Failure(error)
            return False

    def _worth(self, demand: Demand, kept: list[Cell], readers: list[Cell]) -> bool:
        """Return whether the cache has all, or building it saves forward passes and fits into half of the free disk.

        Where others have decided what to build, only the first counts.
        """
        missing = demand.cache.missing(demand.pairs, demand.parts)
        to_build = len(union(list(missing.values())))
        if not to_build or self._mode == "ready":
            return not to_build
        row_bytes = self._store.live(demand.card).row_bytes()
        needed = sum(len(missing[part]) * row_bytes[part] for part in demand.parts)
        return to_build < self._live_forwards(kept, readers) and needed < free_space(self._store.runs) / 2

    def _live_forwards(self, kept: list[Cell], readers: list[Cell]) -> int:
        """Views that the live teacher would forward for ``kept``, beyond those that other cells ask it for anyway."""
        total, labels = 0, self._store.data.dataset.train_labels
        ids = {cell.id for cell in kept}
        for group in self._groups:
            here = [cell for cell in readers if cell in group]
            ours: set[tuple[ViewPlan, int]] = set()
            others: set[tuple[ViewPlan, int]] = set()
            for cell in here:
                visits, want = (ours if cell.id in ids else others), Wanted.by(cell)
                visits |= {(want.plan, epoch) for epoch in want.epochs}
            if here:  # of one seed, and so of one division
                images = num_trained(labels, here[0].protocol.rules.evaluation.validation)
                total += images * sum(plan.num_views for plan, _ in ours - others)
        return total


def _networks(cell: Cell) -> list[TeacherRef]:
    """Return the members of a cell's teacher that have a cache: not the files of logits."""
    return [member for member in cell.teacher.members if not member.is_file] if cell.teacher else []


def _by_network(cells: Sequence[Cell]) -> dict[TeacherRef, list[Cell]]:
    """Sort cells by the networks that teach them."""
    readers: dict[TeacherRef, list[Cell]] = {}
    for cell in cells:
        for network in _networks(cell):
            readers.setdefault(network, []).append(cell)
    return readers


def _begun(folder: Path) -> Kind | None:
    """Return where the teacher outputs of an unfinished cell came from: it resumes with them, bit for bit.

    None where that cannot be read, as where nothing was begun: the file is written anew when the cell is resumed.
    """
    if not (folder / STATE).exists():
        return None
    try:
        kind = read_toml(folder / CONFIG).get("teacher_outputs")
    except Unreadable:
        return None
    return kind if kind in ("live", "cache") else None
