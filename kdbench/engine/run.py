"""One cell in progress: its networks, its position, its random streams, and the update of a step."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from kdbench.data.batches import Batches, DeviceData
from kdbench.data.groups import Group
from kdbench.engine.build import build_module
from kdbench.engine.divergence import Diverged, describe_divergence
from kdbench.engine.options import Options
from kdbench.engine.phase import Phase, phases_of
from kdbench.engine.progress import Progress
from kdbench.engine.shared import Feed
from kdbench.engine.step import StepObserver
from kdbench.engine.tally import Tally
from kdbench.engine.update import StepUpdate
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import METRICS, PRETRAINING
from kdbench.experiment.registry import load_method
from kdbench.method import Batch, Method
from kdbench.net import Net, Outputs, Part
from kdbench.teachers.sources import TeacherSource
from kdbench.utils.device import Span
from kdbench.utils.files import write_atomic
from kdbench.utils.streams import generator, stream_seed


@final
class Run:
    """One cell in progress. It stands at a step, from 0, of an epoch, from 1, of a phase.

    Parameters
    ----------
    permit
        Is called right before each write and raises if this process may not write any more.
    surveyed
        Whether the method computes what it wants over the training set; steps that are timed do without.

    Raises
    ------
    UserError
        The method cannot work on these networks or images.
    """

    def __init__(
        self,
        cell: Cell,
        batches: Batches,
        source: TeacherSource | None,
        options: Options,
        permit: Callable[[], None] = lambda: None,
        *,
        surveyed: bool = True,
    ) -> None:
        device = options.device
        self.cell, self.batches, self.options, self.permit = cell, batches, options, permit
        method_class = load_method(cell.method)
        self.feed = Feed(source, method_class.views(cell.settings.config))
        self.module, self.extra_parameters = build_module(cell, batches, self.feed, options, surveyed=surveyed)
        self.generator = generator(cell.seed, "method", device=device)
        self.tally = Tally()
        self.step_update = StepUpdate(self.module, cell.protocol, device, options.ranks)
        self.devices = (options.ranks.size,)
        """How many devices have computed it, one number after another where it was resumed on others."""
        self.num_lockstep = 1
        """Runs in lockstep, this one among them."""
        self.phases = phases_of(cell, self.method, self.student, batches.steps)
        self.enter(self.phases[0])
        self._observer = StepObserver()
        self._start = (time.monotonic(), 0.0)

    @property
    def student(self) -> Net:
        """What is trained, evaluated and saved: the student, or what the method made of it."""
        return self.module.student

    @property
    def method(self) -> Method:
        """The method with its heads and buffers."""
        return self.module.method

    @property
    def source(self) -> TeacherSource | None:
        """Where its teacher outputs come from; None without a teacher."""
        return self.feed.source

    @property
    def data(self) -> DeviceData:
        """Images and labels."""
        return self.batches.data

    @property
    def folder(self) -> Path:
        """The cell's folder."""
        return self.cell.folder(self.options.runs)

    @property
    def needs(self) -> frozenset[Part]:
        """What is read of the teacher in this phase."""
        return self.phase.reads.teacher

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """What is trained in this phase."""
        return self.phase.parameters

    @property
    def stream_epoch(self) -> int:
        """Number of this epoch in the names of random streams; see :meth:`Phase.stream_epoch`."""
        return self.phase.stream_epoch(self.epoch)

    @property
    def done(self) -> bool:
        """Whether every epoch is over."""
        return self.phase is self.phases[-1] and self.epoch > self.phase.epochs

    @property
    def num_epochs_done(self) -> int:
        """How many epochs are over, those of pre-training among them."""
        return self.stream_epoch - self.cell.epochs.start

    @property
    def in_last_epoch(self) -> bool:
        """Whether it stands in the last of all epochs."""
        return self.phase is self.phases[-1] and self.epoch == self.phase.epochs

    def enter(self, phase: Phase, epoch: int = 1, step: int = 0) -> None:
        """Stand at a step of an epoch of a phase, with a fresh optimiser."""
        self.phase, self.epoch, self.step = phase, epoch, step
        self.optimizer = phase.optimizer(self.cell.protocol.rules.optimizer)
        self.step_update.enter(phase, self.optimizer)
        self._learning_rate = phase.learning_rate.holder(self.options.device)

    def skip_pretraining(self) -> None:
        """Stand at the first step of the protocol's first epoch, whatever was done before."""
        self.enter(self.phases[-1])

    def rewind(self) -> None:
        """Stand at the first step of this epoch again, with all that has been learnt."""
        self.step = 0

    @contextlib.contextmanager
    def observed(self, observer: StepObserver) -> Iterator[None]:
        """Let an observer see the steps that are done inside."""
        before, self._observer = self._observer, observer
        try:
            yield
        finally:
            self._observer = before

    def begin_epoch(self, spans: Iterable[Span] = ()) -> None:
        """Set the epoch's learning rate, or where each step's will stand, and what is in training mode.

        Parameters
        ----------
        spans
            Its share of the time that making the epoch's views took.
        """
        self.tally.time(spans)
        first = self.phase.learning_rate(self.epoch, 0)
        for group in self.optimizer.param_groups:
            group["lr"] = first if self._learning_rate is None else self._learning_rate
        self.phase.set_modes()

    def begin_step(self) -> None:
        """Set the learning rate of the step, where each step has its own."""
        if self._learning_rate is not None:
            self._learning_rate.fill_(self.phase.learning_rate(self.epoch, self.step))

    def begin_group(self, group: Group) -> None:
        """Set the random streams to the beginning of a group of images."""
        place = (self.stream_epoch, self.step) + ((group.number,) if group.number else ())
        torch.manual_seed(stream_seed(self.cell.seed, "step", *place))
        self.generator.manual_seed(stream_seed(self.cell.seed, "method", *place))

    def add(self, group: Group, images: Tensor, teacher: Outputs) -> None:
        """Add the gradients of a group. Never waits for the device.

        Parameters
        ----------
        images
            Views ``(V*n, 3, H, W)`` of the group's images.
        teacher
            At least the parts that the phase needs, of these views.
        """
        labels, smoothing = self.data.labels[group.index], self.cell.protocol.rules.label_smoothing
        epochs = self.epoch, self.phase.epochs
        index = self.batches.places(group.index)
        batch = Batch(images, labels, index, *epochs, self.generator, smoothing)
        self.step_update.add(group, batch, teacher, self._observer)

    def update(self) -> Tensor:
        """Do the update for the groups that were added, and return the loss terms ``(num_terms,)``."""
        self.tally.name(self.step_update.terms)
        return self.step_update.apply()

    def share_statistics(self) -> None:
        """Give all processes the running statistics that the leading one has."""
        self.step_update.share_statistics()

    def count(self, values: Tensor, spans: Iterable[Span]) -> None:
        """Move past a step that gave these loss terms ``(num_terms,)`` and took this time."""
        self.tally.count(values)
        self.tally.time(spans)
        self.step += 1
        self._observer.ends(self.tally.terms, values)

    def flush_losses(self) -> None:
        """Add the loss terms and times of the last steps to the sums; waits for the device.

        Raises
        ------
        Diverged
            A term, or a weight after the last update, is not finite. Nothing has been saved since then.
        """
        rows = self.tally.read()
        first = self.step - len(rows)
        for offset, terms in enumerate(rows):
            if not all(map(math.isfinite, terms.values())):
                raise self._divergence(first + offset + 1, terms)
            self.tally.add(terms)
        if rows and not torch.stack([p.detach().sum() for p in self.parameters]).isfinite().all():
            raise self._divergence(self.step, rows[-1])
        self.tally.add_time()

    def _divergence(self, step: int, values: Mapping[str, float]) -> Diverged:
        """Describe a divergence at a step of the epoch, from 1; find out whether its teacher's outputs are finite."""
        source = self.source
        if source and source.is_finite(self.batches, self.feed.plan, self.needs, step - 1):
            source = None
        return describe_divergence(self.cell, self.folder, self.phase, self.epoch, step, values, source)

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Write the epoch's line with its metrics, of which pre-training has none, and move to the next epoch.

        Raises
        ------
        Diverged
            The weights are finite, but the student's logits are not.
        """
        row: dict[str, Any] = {"epoch": self.epoch, "lr": self.phase.learning_rate(self.epoch, self.step - 1)}
        row |= self.tally.means(self.batches.steps)
        if self.phase.pretraining:
            self._note(row, self.tally.history_before, PRETRAINING)
        else:
            if not all(map(math.isfinite, metrics.values())):
                raise self._divergence(self.step, metrics)
            self._note(row | dict(metrics), self.tally.history, METRICS)
        if self.phase.pretraining and self.epoch == self.phase.epochs:
            self.enter(self.phases[-1])
        else:
            self.epoch, self.step = self.epoch + 1, 0

    def _note(self, row: dict[str, Any], history: list[dict[str, Any]], name: str) -> None:
        history.append(row)
        if not self.options.ranks.leads:
            return
        write_atomic(self.folder / name, "".join(f"{json.dumps(row)}\n" for row in history), permit=self.permit)

    def start_clock(self) -> None:
        """Measure from here how long the rest will take."""
        self._start = (time.monotonic(), self.fraction)

    @property
    def fraction(self) -> float:
        """The part of training that is done."""
        return (self.num_epochs_done + self.step / self.batches.steps) / len(self.cell.epochs)

    def progress(self) -> Progress:
        """Return where the run is, and how long the rest will take at the speed since it was started."""
        started, before = self._start
        done = self.fraction - before
        left = (time.monotonic() - started) / done * (1 - self.fraction) if done > 0 else None
        top1 = self.tally.history[-1]["top1"] if self.tally.history else None
        epochs = self.phase.epochs
        return Progress(min(self.epoch, epochs), epochs, self.phase.pretraining, self.fraction, top1, left)
