"""One cell in progress: networks, method, optimiser, position, and everything counted so far."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, final

import torch
from torch import Tensor, nn

from kdbench.data.batches import Batches, DeviceData
from kdbench.engine.optim import clip_gradients, load_optimizer
from kdbench.engine.phase import Phase, count_extra_parameters, phases_of
from kdbench.engine.progress import Diverged, Progress
from kdbench.engine.record import Counts, make_record
from kdbench.engine.shared import Group
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import CONFIG, METRICS, PRETRAINING, RECORD, STATE, WEIGHTS
from kdbench.experiment.registry import load_method, method_source
from kdbench.method import Batch, Setup
from kdbench.models.build import build_net
from kdbench.models.evaluate import evaluate, predict
from kdbench.models.weights import save_weights
from kdbench.net import Outputs, Part
from kdbench.teachers.outputs import TeacherSource
from kdbench.utils.checkpoint import load_state, save_state
from kdbench.utils.device import Span, autocast, be_deterministic, keep_freed_memory, memory_format
from kdbench.utils.files import unfinished_writes, write_atomic, write_json
from kdbench.utils.scheduler import Scheduler
from kdbench.utils.streams import generator, seeded, stream_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How cells are run. Nothing here changes their results beyond rounding."""

    runs: Path
    device: torch.device
    save_every: float = 60.0
    """Seconds between two saves of the state."""
    scheduler: Scheduler = field(default_factory=Scheduler)
    """Knows about the jobs of other processes that work on cells."""
    compile: bool = False
    """On a GPU, launch each step as CUDA graphs; elsewhere, compile the student."""


@final
class Run:
    """One cell in progress. Steps count from 0, the protocol's epochs from 1; those of pre-training end with 0.

    Parameters
    ----------
    permit
        Is called right before each write and raises if this process may not write any more.

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
    ) -> None:
        protocol, device = cell.protocol, options.device
        be_deterministic(device)
        if device.type == "cpu":
            keep_freed_memory()
        self.cell, self.batches, self.options = cell, batches, options
        self.permit = permit
        self.data: DeviceData = batches.data
        dataset, teacher = self.data.dataset, source.teacher if source else None
        student = build_net(cell.student, protocol, dataset, seed=cell.seed, purpose="student")
        kind = load_method(cell.method)
        setup = Setup(
            student=student,
            teacher=teacher.net if teacher else None,
            labels=dataset.train_labels,
            epochs=protocol.epochs,
            steps_per_epoch=batches.steps,
        )
        self.group = Group(source, kind.views(cell.settings.config))
        try:
            batches.add(self.group.plan)
            with seeded(cell.seed, "init", "method"):
                self.method = kind(cell.settings.config, setup)
                self.student = self.method.wrap(setup)
            if protocol.batch_size < self.method.min_images:
                raise ValueError(
                    "the method cannot train on a batch of one image, because its batch norm sees one value a channel: "
                    f"choose a batch size of at least {self.method.min_images}"
                )
        except ValueError as error:
            raise UserError(f"{cell} cannot run: {error}") from None
        for module in (self.student, self.method):
            module.to(device, memory_format=memory_format(device, protocol.precision))  # type: ignore[call-overload]
        compiled = options.compile and device.type != "cuda"
        self._student = torch.compile(self.student, dynamic=False) if compiled else self.student
        self.generator = generator(cell.seed, "method", device=device)
        self.extra_parameters = count_extra_parameters(student, self.student, self.method)
        self.phases = phases_of(cell, self.method, self.student, batches.steps)
        self.go_to(cell.epochs.start)
        self.scaler = torch.amp.GradScaler(device.type, enabled=protocol.precision == "fp16")
        self.history: list[dict[str, Any]] = []
        self.history_before: list[dict[str, Any]] = []
        self.seconds = {"train": 0.0, "evaluate": 0.0}
        self.sums: dict[str, float] = {}
        self.pending: list[Tensor] = []
        self.spans: list[Span] = []
        self.terms: tuple[str, ...] = ()
        self.num_lockstep = 1
        self._start = (time.monotonic(), 0.0)

    @property
    def source(self) -> TeacherSource | None:
        """Where its teacher outputs come from; None without a teacher."""
        return self.group.source

    @property
    def folder(self) -> Path:
        """The cell's folder."""
        return self.cell.folder(self.options.runs)

    @property
    def done(self) -> bool:
        """Whether every epoch is over."""
        return self.epoch not in self.cell.epochs

    def go_to(self, epoch: int, step: int = 0) -> None:
        """Stand at a step of an epoch, with a fresh optimiser of its phase."""
        self.epoch, self.step = epoch, step
        self.phase: Phase = self.phases[0 if epoch < 1 else -1]
        self.optimizer = self.phase.optimizer(self.cell.protocol.rules.optimizer)
        self._learning_rate = self.phase.learning_rate.holder(self.options.device)

    @property
    def needs(self) -> frozenset[Part]:
        """What is read of the teacher at this time."""
        return self.phase.reads.teacher

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """What is trained at this time."""
        return self.phase.parameters

    @property
    def number(self) -> int:
        """Number of the epoch in its phase, from 1."""
        return self.phase.number(self.epoch)

    def join(self, num_runs: int) -> None:
        """Note how many runs are in lockstep, this one among them."""
        self.num_lockstep = num_runs

    def begin_epoch(self, spans: Iterable[Span] = ()) -> None:
        """Set the epoch's learning rate, or where each step's will stand, and what is in training mode.

        Parameters
        ----------
        spans
            Its share of the time that making the epoch's views took.
        """
        self.spans += spans
        first = self.phase.learning_rate(self.number, 0)
        for group in self.optimizer.param_groups:
            group["lr"] = first if self._learning_rate is None else self._learning_rate
        self.phase.set_modes()

    def begin_step(self) -> None:
        """Set the random streams, and the learning rate where each step has its own, to the beginning of the step."""
        if self._learning_rate is not None:
            self._learning_rate.fill_(self.phase.learning_rate(self.number, self.step))
        torch.manual_seed(stream_seed(self.cell.seed, "step", self.epoch, self.step))
        self.generator.manual_seed(stream_seed(self.cell.seed, "method", self.epoch, self.step))

    def update(self, images: Tensor, index: Tensor, teacher: Outputs) -> Tensor:
        """Do one update, and return the loss terms ``(len(self.terms),)``. Never waits for the device.

        Parameters
        ----------
        images
            Views ``(V*B, 3, H, W)`` of the images at ``index`` ``(B,)``.
        teacher
            At least the parts that the method needs, of these views.
        """
        phase = self.phase
        smoothing = self.cell.protocol.rules.label_smoothing
        labels = self.data.labels[index]
        batch = Batch(images, labels, index, self.number, phase.epochs, self.generator, smoothing)
        with autocast(self.options.device, self.cell.protocol.precision):
            reads = phase.reads.student
            student = self._student(images, reads) if reads else Outputs("student")
            terms = phase.loss(student, teacher.narrowed(phase.reads.teacher), batch)
        values = torch.stack([v.float() for v in terms.values()])
        self.terms = tuple(terms)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(values.sum()).backward()
        clip_gradients(self.cell.protocol.rules.optimizer, self.parameters, self.optimizer, self.scaler)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return values.detach()

    def count(self, values: Tensor, spans: Iterable[Span]) -> None:
        """Move past a step that gave these loss terms and took this time."""
        self.pending.append(values)
        self.spans += spans
        self.step += 1

    def drain(self) -> None:
        """Add the pending loss terms and times to the sums; waits for the device.

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
                self._diverged(first + offset + 1, dict(zip(self.terms, row, strict=True)))
            for name, value in zip(self.terms, row, strict=True):
                self.sums[name] = self.sums.get(name, 0.0) + value
        if rows and not torch.stack([p.detach().sum() for p in self.parameters]).isfinite().all():
            self._diverged(self.step, dict(zip(self.terms, rows[-1], strict=True)))
        self.seconds["train"] += sum(span.seconds() for span in self.spans)
        self.spans.clear()

    def _diverged(self, step: int, values: dict[str, float]) -> NoReturn:
        """Say at which step of the epoch, and with which values, training broke down."""
        terms = {name: f"{value:g}" for name, value in values.items()}
        listed = ", ".join(f"{name} = {value}" for name, value in terms.items())
        where = f"pre-training, epoch {self.number}," if self.epoch < 1 else f"epoch {self.epoch}"
        raise Diverged(
            f"{self.cell} failed: diverged in {where} at step {step} ({listed}); its last good state "
            f"is kept in {self.folder}. Try smaller loss weights with --set, or fp32",
            {"epoch": self.epoch, "step": step, "terms": terms},
        )

    def end_epoch(self) -> None:
        """Evaluate, write the epoch's line of metrics and move to the next epoch; pre-training is not evaluated.

        Raises
        ------
        Diverged
            The weights are finite, but the student's logits are not.
        """
        row: dict[str, Any] = {"epoch": self.number, "lr": self.phase.learning_rate(self.number, self.step - 1)}
        row |= {f"loss/{name}": total / self.batches.steps for name, total in self.sums.items()}
        if self.epoch < 1:
            self._note(row, self.history_before, PRETRAINING)
        else:
            started = time.monotonic()
            metrics = self.evaluate()
            if not all(map(math.isfinite, metrics.values())):
                self._diverged(self.step, metrics)
            self.seconds["evaluate"] += time.monotonic() - started
            self._note(row | metrics, self.history, METRICS)
        self.sums = {}
        if self.epoch == 0:
            self.go_to(1)
        else:
            self.epoch, self.step = self.epoch + 1, 0

    def _note(self, row: dict[str, Any], history: list[dict[str, Any]], name: str) -> None:
        history.append(row)
        write_atomic(self.folder / name, "".join(f"{json.dumps(row)}\n" for row in history), permit=self.permit)

    def evaluate(self) -> dict[str, float]:
        """Metrics of the student on the test set."""
        logits = predict(self.student, self.data.test_images)
        teacher_logits = self.source.teacher.test_logits if self.source else None
        return evaluate(logits, self.data.dataset.test_labels, teacher_logits)

    def save(self) -> None:
        """Save everything that the rest of the run depends on; random streams are functions of the position."""
        state = {
            "cell": self.cell.id,
            "method_source": method_source(self.cell.method).text,
            "epoch": self.epoch,
            "step": self.step,
            "student": self.student.backbone.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "history_before": self.history_before,
            "sums": self.sums,
            "seconds": self.seconds,
        }
        save_state(self.folder / STATE, state, permit=self.permit)

    def resume(self) -> None:
        """Go on from a saved state, if there is one.

        Raises
        ------
        UserError
            The state is damaged, belongs to another cell, or is of other code of a user's method.
        """
        path = self.folder / STATE
        state = load_state(path)
        if state is not None:
            if state["cell"] != self.cell.id:
                raise UserError(f"{path} belongs to cell {state['cell'][:8]}, not {self.cell.id[:8]}: move it away")
            source = method_source(self.cell.method)
            if source.changed_since(state.get("method_source", "")):
                raise UserError(
                    f"{source.where} has changed since {self.folder} was begun: raise VERSION in it to begin anew, put "
                    "it back to go on, or delete that folder"
                )
            self.student.backbone.load_state_dict(state["student"])
            self.method.load_state_dict(state["method"])
            self.scaler.load_state_dict(state["scaler"])
            self.go_to(state["epoch"], state["step"])
            load_optimizer(self.optimizer, state["optimizer"])
            self.history, self.sums, self.seconds = state["history"], state["sums"], state["seconds"]
            self.history_before = state.get("history_before", [])
        self._start = (time.monotonic(), self.fraction)

    def finish(self) -> dict[str, Any]:
        """Save the weights, write the record and drop the state, which is not needed any more."""
        digest = save_weights(self.folder / WEIGHTS, self.student, permit=self.permit)
        counts = Counts(
            num_images=min(self.batches.num_images, self.batches.steps * self.cell.protocol.batch_size),
            views_per_image=self.group.plan.num_views,
            student_epochs=sum(phase.epochs for phase in self.phases if phase.reads.student),
            teacher_epochs=sum(phase.epochs for phase in self.phases if phase.reads.teacher),
            extra_parameters=self.extra_parameters,
            teacher_outputs=self.source.kind if self.source else None,
            cells_together=self.num_lockstep,
            compiled=self.options.compile,
        )
        card = self.source.teacher.card if self.source else None
        record = make_record(
            self.cell, self.data.dataset, card, self.history, self.seconds, counts, digest, self.options.device
        )
        write_json(self.folder / RECORD, record, permit=self.permit)
        # What a process that was killed while it wrote has left goes as well.
        begun = [self.folder / name for name in (CONFIG, METRICS, PRETRAINING, WEIGHTS, STATE, RECORD)]
        left = [path for file in begun for path in unfinished_writes(file)]
        left += [self.folder / f"{STATE}{which}" for which in ("", ".previous", ".new")]
        for path in left:
            path.unlink(missing_ok=True)
        return record

    @property
    def fraction(self) -> float:
        """The part of training that is done."""
        epochs = self.cell.epochs
        return (self.epoch - epochs.start + self.step / self.batches.steps) / len(epochs)

    def progress(self) -> Progress:
        """Where the run is, and how long the rest will take at the speed since it was started."""
        started, before = self._start
        done = self.fraction - before
        left = (time.monotonic() - started) / done * (1 - self.fraction) if done > 0 else None
        top1 = self.history[-1]["top1"] if self.history else None
        epochs = self.phase.epochs
        return Progress(min(self.number, epochs), epochs, self.epoch < 1, self.fraction, top1, left)
