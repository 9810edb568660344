"""How fast this machine trains: whole steps of the trainer, timed in turns so that noise hits all alike.

Images are random, in the shape of the protocol's data set; teachers are untrained and caches are filled with random
numbers. None of that changes the work that a step is.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from kdbench.data.batches import Batches, DeviceData
from kdbench.data.images import Dataset
from kdbench.engine.bench_layers import LayerPasses
from kdbench.engine.lockstep import Lockstep
from kdbench.engine.options import Options
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.run import Run
from kdbench.experiment.cell import Cell, TeacherRef
from kdbench.experiment.pairs import Pair
from kdbench.experiment.protocol import Protocol
from kdbench.experiment.registry import load_method, method_version
from kdbench.experiment.settings import resolve_settings
from kdbench.method import PLAIN, ViewPlan
from kdbench.models.build import build_net
from kdbench.models.weights import freeze
from kdbench.net import Outputs, Part
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cache_folder import Identity
from kdbench.teachers.cards import TeacherCard
from kdbench.teachers.demand import Wanted
from kdbench.teachers.load import Teacher
from kdbench.teachers.outputs import LiveTeacher, Query
from kdbench.teachers.pairs import stored_parts
from kdbench.teachers.sources import EnsembleSource, FileSource, NetworkSource, TeacherSource
from kdbench.utils.device import wait_for

Work = Callable[[], object]
Times = dict[str, list[float]]
_STEPS = 64
"""Steps that a measurement goes through, over and over: whole blocks of what is read from a cache at once."""


def alternate(
    works: Mapping[str, Work], rounds: int, device: torch.device, observe: Callable[[float], None] = lambda _: None
) -> Times:
    """Time pieces of work in turns; return the seconds of each round.

    Parameters
    ----------
    observe
        Called with the part that is done, in [0, 1].
    """
    times: Times = {name: [] for name in works}
    for number in range(-2, rounds):  # two rounds to warm up
        for name, work in works.items():
            wait_for(device)
            started = time.perf_counter()
            work()
            wait_for(device)
            if number >= 0:
                times[name].append(time.perf_counter() - started)
        observe((number + 3) / (rounds + 2))
    return times


def ratio(times: Times, name: str, to: str) -> float:
    """Return how much longer one work takes than another: the median over rounds of their quotient."""
    return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))


@final
class Stepper:
    """Takes the first steps of an epoch over and over, as training does."""

    def __init__(self, cells: Sequence[Cell], batches: Batches, source: TeacherSource | None, options: Options) -> None:
        self._runs = [_run(cell, batches, source, options) for cell in cells]
        self._outcomes = Outcomes(cells)
        self._lockstep = Lockstep(self._runs, batches, self._outcomes, options)
        # Whole batches; of fewer images than that there is one, of all.
        self._steps = min(_STEPS, max(1, batches.num_images // batches.schedule.batch_size))
        if batches.epoch != 1:
            batches.begin(1)
        self._lockstep.open_readers(self._runs)

    def __call__(self) -> None:
        """Do one step."""
        step = self._runs[0].step
        self._lockstep.tick(step, self._runs)
        for run in self._runs:
            self._outcomes.check(run.cell)
            if run.step == self._steps:
                run.flush_losses()
                run.rewind()


@final
class Bench:
    """One pair under one protocol, with everything that a step needs."""

    def __init__(
        self,
        protocol: Protocol,
        dataset: Dataset,
        pair: Pair,
        folder: Path,
        options: Options,
        sides: Sequence[int | None] = (None,),
    ) -> None:
        self.protocol, self.options, self._folder = protocol, options, folder
        self.student = pair.student
        self.data = DeviceData(dataset, protocol, options.device)
        networks = [member.network for member in pair.teacher.members]
        ids = ["none:"] if len(networks) == 1 else [f"none:{number}" for number in range(len(networks))]
        refs = [TeacherRef(*member) for member in zip(networks, ids, strict=True)]
        self.teacher, self._ref = pair.teacher.network, TeacherRef.joined(refs)
        self.members = [self._member(ref, side) for ref, side in zip(refs, sides, strict=True)]

    def _member(self, ref: TeacherRef, side: int | None) -> LiveTeacher | FileSource:
        """Return an untrained teacher, or a file of random logits."""
        protocol, dataset, device = self.protocol, self.data.dataset, self.options.device
        card = TeacherCard(
            network=ref.network,
            id=ref.id,
            dataset=protocol.dataset,
            weights="none",
            accuracy=0.0,
            expected=None,
            origin="untrained",
            image_size=side,
        )
        if ref.is_file:
            return FileSource(card, torch.randn(len(dataset.train_labels), dataset.num_classes), None)
        images = dataset.with_side(side) if side else dataset
        net = freeze(build_net(ref.network, protocol, images, seed=0, purpose="teacher")).to(device)
        return LiveTeacher(Teacher(card, net, torch.empty(0)), protocol.precision, device)

    @property
    def live(self) -> LiveTeacher:
        """The network that teaches; the first one of an ensemble."""
        return next(member for member in self.members if isinstance(member, LiveTeacher))

    @cached_property
    def cache(self) -> TeacherCache:
        """The cache of the network that teaches."""
        return self._cache(self.live)

    def _cache(self, live: LiveTeacher) -> TeacherCache:
        return TeacherCache(self._folder, Identity.of(live.teacher.card, self.protocol, self.data.dataset))

    def source(self, cell: Cell, *, cached: bool = False) -> TeacherSource:
        """Return where the outputs of the teacher come from, the members of an ensemble all live or all cached."""
        members = [
            member
            if isinstance(member, FileSource)
            else NetworkSource(member, self._filled(member, cell) if cached else None)
            for member in self.members
        ]
        if len(members) == 1:
            return members[0]
        return EnsembleSource(self._ref, members, self.data.dataset.test_labels)

    def cell(self, method: str, settings: dict[str, Any] | None = None, student: str | None = None) -> Cell:
        """Return a cell of the pair."""
        kind, student = load_method(method), student or self.student
        resolved = resolve_settings(
            method, dataset=self.protocol.dataset, teacher=self.teacher, student=student, chosen=settings
        )
        return Cell(
            protocol=self.protocol,
            teacher=self._ref if kind.READS.teacher else None,
            student=student,
            method=method,
            method_version=method_version(method, resolved.values()),
            settings=resolved,
            seed=1,
        )

    def batches(self, *plans: ViewPlan, data: DeviceData | None = None) -> Batches:
        """Batches at the beginning of the first epoch; of as many other images where they are given."""
        batches = Batches(data or self.data, self.protocol, 1)
        sides = {member.side for member in self.members if isinstance(member, LiveTeacher) and member.side}
        for plan in plans or (PLAIN,):
            batches.add(plan, sides)
        batches.begin(1)
        return batches

    def live_step(self, *cells: Cell) -> Stepper:
        """Steps of cells in lockstep, with the live teacher."""
        return Stepper(cells, self.batches(*map(plan_of, cells)), self.source(cells[0]), self.options)

    def cached_step(self, *cells: Cell) -> Stepper:
        """Steps of cells in lockstep, with a warm cache."""
        return Stepper(cells, self.batches(*map(plan_of, cells)), self.cached(cells[0]), self.options)

    def cached(self, cell: Cell) -> TeacherSource:
        """Return a cache of all that the steps of a cell read."""
        return self.source(cell, cached=True)

    def _filled(self, live: LiveTeacher, cell: Cell) -> TeacherCache:
        cache, net = self.cache if live is self.live else self._cache(live), live.teacher.net

        def random(pairs: Tensor) -> dict[Part, Tensor]:
            return {
                "logits": torch.randn(len(pairs), net.num_classes),
                "penultimate": torch.rand(len(pairs), net.width),
            }

        wanted, batches = Wanted.by(cell), self.batches(plan_of(cell))
        steps = range(min(_STEPS, batches.steps))
        pairs = np.unique(batches.visits(steps, wanted.plan).numpy())
        parts = stored_parts(wanted.parts, self.data.images.numbering, net.widths)
        cache.build(pairs, tuple(sorted(parts)), random, batch=4096)
        return cache

    def alone_step(self, plan: ViewPlan = PLAIN, student: str | None = None) -> Work:
        """Steps of a student without a teacher, on the views of a plan."""
        cell = self.cell(self.protocol.baseline, student=student)
        if plan == PLAIN:
            return self.live_step(cell)
        return _OnViews(cell, self.batches(plan), plan, self.options)

    def data_step(self, plan: ViewPlan) -> Work:
        """Making the images of one step."""
        batches = self.batches(plan)
        return lambda: [batches.images(group, plan) for group in batches.groups(0)]

    def teacher_step(self, cell: Cell, source: TeacherSource) -> Work:
        """Asking for the teacher's outputs of one step after the other."""
        wanted, batches = Wanted.by(cell), self.batches(plan_of(cell))
        reader = source.reader(batches, wanted.plan, wanted.parts)
        views = [
            {side: batches.images(group, wanted.plan, side) for side in (None, *source.sides)}
            for group in batches.groups(0)
        ]
        count = itertools.cycle(range(min(_STEPS, max(1, batches.steps - 1))))

        def work() -> None:
            for shown, group in zip(views, batches.groups(next(count)), strict=True):
                reader.outputs(shown, reader.inputs(group))

        return work

    def layers_step(self, cell: Cell, source: TeacherSource) -> Work:
        """Forward and backward passes of the layers that a method adds."""
        batches = self.batches(plan_of(cell))
        return LayerPasses.of(_run(cell, batches, source, self.options), batches, source)


@final
class _OnViews:
    """A student alone on several views of each image: the mean cross entropy over all of them."""

    def __init__(self, cell: Cell, batches: Batches, plan: ViewPlan, options: Options) -> None:
        self._run = _run(cell, batches, None, options)
        self._batches, self._plan = batches, plan

    def __call__(self) -> None:
        run = self._run
        run.begin_step()
        for group in self._batches.groups(0):
            images = self._batches.images(group, self._plan)
            run.begin_group(group)
            run.add(replace(group, index=group.index.repeat(self._plan.num_views)), images, Outputs("teacher"))
        run.update()


def _run(cell: Cell, batches: Batches, source: TeacherSource | None, options: Options) -> Run:
    """Return a cell at the first step of the protocol's first epoch."""
    run = Run(cell, batches, source if cell.teacher else None, options, surveyed=False)
    run.skip_pretraining()
    run.begin_epoch()
    return run


def plan_of(cell: Cell) -> ViewPlan:
    """Return the views that a cell sees."""
    return Wanted.by(cell).plan


def forward_seconds(bench: Bench, observe: Callable[[float], None] = lambda _: None) -> float:
    """Seconds in which the live teacher says what a cache keeps of one view, asked in batches as a build asks."""
    query, batches = Query(bench.live, bench.data), bench.batches()
    steps = range(min(batches.steps, math.ceil(query.batch / batches.schedule.batch_size)))
    chunk = batches.visits(steps, PLAIN)[: query.batch]
    times = alternate({"forward": lambda: query(chunk)}, 3, bench.options.device, observe)
    return statistics.median(times["forward"]) / len(chunk)
