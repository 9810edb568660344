"""The one training loop. It owns optimiser, schedule, precision, checkpoints and evaluation; a method owns its loss."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, final

import tomli_w
import torch
from torch import Tensor

from kdbench.cell import Cell
from kdbench.checkpoint import load_state, save_state, write_atomic, write_json
from kdbench.data.datasets import Dataset
from kdbench.data.views import Augmentation, ResidentImages, order, views
from kdbench.device import autocast, be_deterministic
from kdbench.errors import Interrupted, UserError
from kdbench.method import Batch, Setup
from kdbench.metrics import evaluate
from kdbench.net import Outputs
from kdbench.networks import build_net, predict, save_weights
from kdbench.record import Counts, make_record
from kdbench.registry import load_method
from kdbench.runs import FAILURE, RECORD, STATE, claim, read_record, write_failure
from kdbench.signals import Stop
from kdbench.streams import generator, seeded, stream_seed
from kdbench.teachers import WEIGHTS, Teacher

_DRAIN_EVERY = 50
"""Steps between two looks at the losses; each look waits for the device."""
_OBSERVE_EVERY = 0.5
"""Seconds between two reports to the observer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a cell is run. Nothing here changes its results."""

    runs: Path
    device: torch.device
    save_every: float = 60.0
    """Seconds between two saves of the state."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a running cell is. ``top1`` is the test accuracy after the last whole epoch, in percent."""

    epoch: int
    epochs: int
    fraction: float
    top1: float | None
    seconds_left: float | None


Observer = Callable[[Progress], None]


class Diverged(UserError):
    """A loss or a weight became NaN or infinite; ``failure`` is what the cell leaves."""

    def __init__(self, text: str, failure: dict[str, Any]) -> None:
        super().__init__(text)
        self.failure = failure | {"text": text}


def train_cell(
    cell: Cell,
    load_dataset: Callable[[], Dataset],
    load_teacher: Callable[[], Teacher | None],
    options: Options,
    observer: Observer = lambda _: None,
) -> dict[str, Any]:
    """Run a cell to its end, from its saved state where there is one, and return its record.

    Data and teacher are loaded only if the cell is not done.

    Raises
    ------
    UserError
        The run cannot start, its state is damaged, or it diverged.
    Interrupted
        A signal came; the state is saved.
    """
    folder = cell.folder(options.runs)
    if record := read_record(folder, cell):
        return record
    with (
        claim(folder),
        Stop() as stop,
        torch.random.fork_rng([options.device] if options.device.type == "cuda" else []),
    ):
        if record := read_record(folder, cell):
            return record
        config = cell.identity() | {"id": cell.id, "source": cell.settings.source}
        write_atomic(folder / "config.toml", tomli_w.dumps(config))
        (folder / FAILURE).unlink(missing_ok=True)
        try:
            run = Run(cell, load_dataset(), load_teacher(), options)
            run.resume(folder / STATE)
            run.train(folder, stop, observer)
        except Diverged as error:
            write_failure(folder, error.failure)
            raise
        except UserError:
            raise
        except torch.OutOfMemoryError as error:
            text = str(error).splitlines()[0]
            write_failure(folder, {"reason": "out of memory", "text": text})
            raise UserError(f"{cell} failed: out of memory ({text}); its last state is kept in {folder}") from None
        except Exception as error:
            write_failure(folder, {"reason": "error", "text": f"{type(error).__name__}: {error}"})
            raise
        return run.finish(folder)


@final
class Run:
    """One cell in progress: networks, method, optimiser, position and everything counted so far."""

    def __init__(self, cell: Cell, dataset: Dataset, teacher: Teacher | None, options: Options) -> None:
        protocol, device = cell.protocol, options.device
        be_deterministic(device)
        self.cell, self.dataset, self.teacher, self.options = cell, dataset, teacher, options
        self.num_images = len(dataset.train_labels)
        self.steps_per_epoch = num_steps(self.num_images, protocol.batch_size)
        self.student = build_net(cell.student, protocol, dataset, seed=cell.seed, purpose="student")
        kind = load_method(cell.method)
        setup = Setup(
            student=self.student,
            teacher=teacher.net if teacher else None,
            labels=dataset.train_labels,
            epochs=protocol.epochs,
            steps_per_epoch=self.steps_per_epoch,
        )
        self.plan = kind.views(cell.settings.config)
        self.augmentation = Augmentation(pad=protocol.pad, flip=protocol.flip)
        try:
            self.images = ResidentImages(dataset.train_images, self.augmentation, self.plan, device)
            with seeded(cell.seed, "init", "method"):
                self.method = kind(cell.settings.config, setup)
        except ValueError as error:
            raise UserError(f"{cell} cannot run: {error}") from None
        self.student.to(device)
        self.method.to(device)
        self.labels = dataset.train_labels.to(device)
        self.test_images = dataset.test_images.to(device)
        self.generator = generator(cell.seed, "method", device=device)
        self.parameters = [p for m in (self.student, self.method) for p in m.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            self.parameters,
            lr=protocol.rate(cell.student, 1),
            momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
            nesterov=protocol.nesterov,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=protocol.precision == "fp16")
        self.epoch, self.step = 1, 0
        self.history: list[dict[str, Any]] = []
        self.seconds = {"train": 0.0, "evaluate": 0.0}
        self.sums: dict[str, float] = {}
        self.pending: list[Tensor] = []
        self.terms: tuple[str, ...] = ()
        self._start = (time.monotonic(), 0.0)

    def train(self, folder: Path, stop: Stop, observer: Observer) -> None:
        """Run every epoch that is left."""
        cell, epochs = self.cell, self.cell.protocol.epochs
        self._start = (time.monotonic(), self.fraction)
        saved = observed = time.monotonic()
        observer(self.progress())
        while self.epoch <= epochs:
            started = time.monotonic()
            plain = order(cell.seed, self.epoch, self.num_images)
            ids = views(cell.seed, self.epoch, self.num_images, self.augmentation, self.plan)
            permutation, ids = plain.to(self.options.device), ids.to(self.options.device)
            for group in self.optimizer.param_groups:
                group["lr"] = cell.protocol.rate(cell.student, self.epoch)
            self.student.train()
            self.method.train()
            while self.step < self.steps_per_epoch:
                batch = cell.protocol.batch_size
                index = permutation[self.step * batch : (self.step + 1) * batch]
                self.train_step(index, ids[:, index])
                self.step += 1
                now = time.monotonic()
                due = now - saved >= self.options.save_every or stop.signum is not None
                if due or len(self.pending) >= _DRAIN_EVERY or self.step == self.steps_per_epoch:
                    self.drain()
                if now - observed >= _OBSERVE_EVERY:
                    observer(self.progress())
                    observed = now
                if due:
                    self.seconds["train"] += now - started
                    started = now
                    self.save(folder / STATE)
                    saved = time.monotonic()
                    if stop.signum is not None:
                        where = f"saved in epoch {self.epoch} after step {self.step}"
                        raise Interrupted(f"{cell} is {where}: type the same command to go on", stop.signum)
            self.seconds["train"] += time.monotonic() - started
            self.end_epoch(folder)
            observer(self.progress())

    def train_step(self, index: Tensor, ids: Tensor) -> None:
        """Do one update on the images at ``index`` ``(B,)`` with their views ``ids`` ``(V, B)``."""
        cell, device = self.cell, self.options.device
        torch.manual_seed(stream_seed(cell.seed, "step", self.epoch, self.step))
        self.generator.manual_seed(stream_seed(cell.seed, "method", self.epoch, self.step))
        images = self.images.augment(index, ids)
        batch = Batch(images, self.labels[index], index, self.epoch, cell.protocol.epochs, self.generator)
        with autocast(device, cell.protocol.precision):
            teacher = Outputs("teacher")
            if self.teacher:
                with torch.no_grad():
                    teacher = self.teacher.net(images, self.method.teacher_reads, "teacher")
            student = self.student(images, self.method.student_reads)
            terms = self.method.loss(student, teacher, batch)
        values = torch.stack([v.float() for v in terms.values()])
        self.terms = tuple(terms)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(values.sum()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.pending.append(values.detach())

    def drain(self) -> None:
        """Add the pending loss terms to the sums.

        Raises
        ------
        Diverged
            A term, or a weight after the last update, is not finite. Nothing has been saved since then.
        """
        rows = torch.stack(self.pending).tolist() if self.pending else []
        first = self.step - len(rows)
        self.pending.clear()
        for offset, row in enumerate(rows):
            if not all(map(math.isfinite, row)):
                self.diverged(first + offset + 1, row)
            for name, value in zip(self.terms, row, strict=True):
                self.sums[name] = self.sums.get(name, 0.0) + value
        if not torch.stack([p.detach().sum() for p in self.parameters]).isfinite().all():
            self.diverged(self.step, rows[-1])

    def diverged(self, step: int, row: list[float]) -> NoReturn:
        """Say at which step of the epoch, and with which loss terms, training broke down."""
        terms = {name: f"{value:g}" for name, value in zip(self.terms, row, strict=True)}
        listed = ", ".join(f"{name} = {value}" for name, value in terms.items())
        raise Diverged(
            f"{self.cell} failed: diverged in epoch {self.epoch} at step {step} ({listed}); its last good state "
            f"is kept in {self.cell.folder(self.options.runs)}. Try smaller loss weights with --set, or fp32",
            {"reason": "diverged", "epoch": self.epoch, "step": step, "terms": terms},
        )

    def end_epoch(self, folder: Path) -> None:
        """Evaluate, write the epoch's line of metrics and move to the next epoch."""
        started = time.monotonic()
        row: dict[str, Any] = {"epoch": self.epoch, "lr": self.optimizer.param_groups[0]["lr"]}
        row |= {f"loss/{name}": total / self.steps_per_epoch for name, total in self.sums.items()}
        row |= self.evaluate()
        self.seconds["evaluate"] += time.monotonic() - started
        self.history.append(row)
        write_atomic(folder / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in self.history))
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}

    def evaluate(self) -> dict[str, float]:
        """Metrics of the student on the test set."""
        logits = predict(self.student, self.test_images)
        teacher_logits = self.teacher.test_logits if self.teacher else None
        return evaluate(logits, self.dataset.test_labels, teacher_logits)

    def save(self, path: Path) -> None:
        """Save everything that the rest of the run depends on; random streams are functions of the position."""
        state = {
            "cell": self.cell.id,
            "epoch": self.epoch,
            "step": self.step,
            "student": self.student.backbone.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "sums": self.sums,
            "seconds": self.seconds,
        }
        save_state(path, state)

    def resume(self, path: Path) -> None:
        """Go on from a saved state, if there is one.

        Raises
        ------
        UserError
            The state is damaged or belongs to another cell.
        """
        state = load_state(path)
        if state is None:
            return
        if state["cell"] != self.cell.id:
            raise UserError(f"{path} belongs to cell {state['cell'][:8]}, not {self.cell.id[:8]}: move it away")
        self.student.backbone.load_state_dict(state["student"])
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.history, self.sums, self.seconds = state["history"], state["sums"], state["seconds"]

    def finish(self, folder: Path) -> dict[str, Any]:
        """Save the weights, write the record and drop the state, which is not needed any more."""
        digest = save_weights(folder / WEIGHTS, self.student)
        counts = Counts(
            num_images=min(self.num_images, self.steps_per_epoch * self.cell.protocol.batch_size),
            views_per_image=self.plan.num_views,
            extra_parameters=sum(p.numel() for p in self.method.parameters() if p.requires_grad),
        )
        card = self.teacher.card if self.teacher else None
        record = make_record(
            self.cell, self.dataset, card, self.history, self.seconds, counts, digest, self.options.device
        )
        write_json(folder / RECORD, record)
        for name in (STATE, f"{STATE}.previous"):
            (folder / name).unlink(missing_ok=True)
        return record

    @property
    def fraction(self) -> float:
        """The part of training that is done."""
        return (self.epoch - 1 + self.step / self.steps_per_epoch) / self.cell.protocol.epochs

    def progress(self) -> Progress:
        """Where the run is, and how long the rest will take at the speed since it was started."""
        started, before = self._start
        done = self.fraction - before
        left = (time.monotonic() - started) / done * (1 - self.fraction) if done > 0 else None
        epochs = self.cell.protocol.epochs
        top1 = self.history[-1]["top1"] if self.history else None
        return Progress(min(self.epoch, epochs), epochs, self.fraction, top1, left)


def num_steps(num_images: int, batch_size: int) -> int:
    """Steps of an epoch. A last batch of one image is left out: batch normalisation cannot train on it."""
    full, rest = divmod(num_images, batch_size)
    return full + (rest > 1)
