"""What is seen in the first epoch of a phase, of a few small steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from kdbench.engine.checks.small import NUM_STEPS, steps
from kdbench.engine.optim import trained as optimised
from kdbench.engine.run import Run
from kdbench.engine.step import StepObserver
from kdbench.method import Batch
from kdbench.models.evaluate import predict
from kdbench.models.weights import weights_hash
from kdbench.net import Outputs
from kdbench.teachers.sources import NetworkSource


def state_hash(run: Run) -> str:
    """Hash of everything that is trained or remembered."""
    return weights_hash(
        {f"student.{k}": v for k, v in run.student.state_dict().items()}
        | {f"method.{k}": v for k, v in run.method.state_dict().items()}
    )


def trained(run: Run) -> dict[str, nn.Parameter]:
    """Return what is trained in some phase, by name."""
    ids = {id(parameter) for phase in run.phases for parameter in phase.parameters}
    modules = {"student": run.student, "method": run.method}
    found = {f"{m}.{name}": p for m, module in modules.items() for name, p in module.named_parameters()}
    return {name: parameter for name, parameter in found.items() if id(parameter) in ids}


def places(run: Run) -> dict[str, Tensor]:
    """Return the memory of everything that is trained or remembered.

    While it is kept, nothing else can be put there: what moves has another ``data_ptr``.
    """
    modules = {"student": run.student, "method": run.method}
    return {f"{m}.{k}": v for m, module in modules.items() for k, v in module.state_dict().items()}


def remembered(run: Run) -> dict[str, Tensor]:
    """Return all that a method keeps, by name, but for the running statistics of its batch norms, which move."""
    method = run.method
    norms = {
        id(buffer)
        for module in method.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for buffer in module.buffers()
    }
    named = [*method.named_parameters(), *method.named_buffers()]
    return {f"method.{name}": tensor for name, tensor in named if id(tensor) not in norms}


@final
@dataclass
class Epoch:
    """What was seen in the first epoch of one phase."""

    run: Run
    stream_epoch: int
    """Its number in streams and views."""
    student: dict[str, Tensor]
    """The student's first state."""
    places: tuple[dict[str, Tensor], dict[str, Tensor]]
    """After the first step and after the last."""
    teacher: tuple[str, str]
    """Hashes of the teacher's weights before and after; empty without a teacher."""
    logits: Tensor
    """What an evaluation says after the last step, of the test images."""
    terms: list[dict[str, Any]] = field(default_factory=list)
    """Of each step."""
    state_hashes: list[str] = field(default_factory=list)
    """After each step."""
    reached: set[str] = field(default_factory=set)
    """Parameters that got a gradient in some step."""
    non_finite: set[str] = field(default_factory=set)
    """Those whose gradient was not finite."""
    seen: list[tuple[list[int], Tensor]] = field(default_factory=list)
    """Image numbers and plain views of each step."""
    changed: set[str] = field(default_factory=set)
    """What the method was given and changed."""
    rewritten: set[str] = field(default_factory=set)
    """What the method keeps and its loss changed."""
    queries_teacher: bool = False
    """Whether the method ran the teacher itself."""


def watch(run: Run) -> Epoch:
    """Do the first epoch of a phase, and return what was seen."""
    watcher = _Watcher(run)
    with run.observed(watcher):
        steps(run, NUM_STEPS)
    return watcher.epoch_seen()


@final
class _Watcher(StepObserver):
    """Writes down what happens in the steps of an epoch."""

    def __init__(self, run: Run) -> None:
        begun = {name: value.clone() for name, value in run.student.backbone.state_dict().items()}
        self._run, self._source = run, run.source
        self._epoch = Epoch(run, run.stream_epoch, begun, ({}, {}), (self._teacher(), ""), torch.empty(0))
        self._given: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}
        self._inside = False
        if self._source and self._source.net:
            self._source.net.register_forward_pre_hook(self._note_query)

    def begins(self, batch: Batch, teacher: Outputs) -> None:
        """Keep what the method is given."""
        parts = _parts(teacher.narrowed(self._run.needs))
        labels = self._run.data.labels
        self._given = {"its images": batch.images, "its image numbers": batch.index, "the labels": labels, **parts}
        self._before = {name: tensor.clone() for name, tensor in self._given.items()}
        self._kept = {name: tensor.clone() for name, tensor in remembered(self._run).items()}
        self._epoch.seen.append((batch.index.tolist(), batch.images[: batch.size].clone()))
        self._inside = True

    def computed(self, terms: Mapping[str, Tensor]) -> None:  # noqa: ARG002
        """Note what the loss has changed of what the method keeps."""
        for name, tensor in remembered(self._run).items():
            before = self._kept.get(name)
            if before is None or before.shape != tensor.shape or not same(before, tensor):
                self._epoch.rewritten.add(name)

    def ends(self, names: tuple[str, ...], values: Tensor) -> None:
        """Note what the step has changed, and what is trained and remembered now."""
        self._inside = False
        epoch, run = self._epoch, self._run
        epoch.changed |= {name for name, tensor in self._given.items() if not torch.equal(tensor, self._before[name])}
        epoch.terms.append(dict(zip(names, values.tolist(), strict=True)))
        gradients = [(each.data_ptr(), each.grad) for each in optimised(run.optimizer) if each.grad is not None]
        for name, parameter in trained(run).items():
            for gradient in (each for place, each in gradients if place == parameter.data_ptr()):
                epoch.reached.add(name)
                epoch.non_finite |= set() if gradient.isfinite().all() else {name}
        epoch.state_hashes.append(state_hash(run))
        if len(epoch.terms) == 1:
            epoch.places = places(run), {}

    def epoch_seen(self) -> Epoch:
        """Return what was seen, now that the epoch is over."""
        epoch = self._epoch
        assert len(epoch.seen) == len(epoch.terms) == NUM_STEPS, "a step was done that its observer has not seen"
        epoch.places = epoch.places[0], places(self._run)
        epoch.teacher = epoch.teacher[0], self._teacher()
        epoch.logits = predict(self._run.student, self._run.data.evaluation)
        return epoch

    def _note_query(self, *_: object) -> None:
        self._epoch.queries_teacher |= self._inside

    def _teacher(self) -> str:
        """Hash of the teacher's weights, those that are shown to the method and those that are run."""
        source = self._source
        nets = (source.teacher.net, source.live.net) if isinstance(source, NetworkSource) else ()
        return "".join(weights_hash(net.state_dict()) for net in nets)


def same(first: Tensor, second: Tensor) -> bool:
    """Return whether tensors are equal bit for bit, NaN included."""
    return torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)


def _parts(outputs: Outputs) -> dict[str, Tensor]:
    """Return the tensors that a teacher gives."""
    found = {}
    for name, part in outputs.parts().items():
        for number, tensor in enumerate(part if isinstance(part, tuple) else (part,)):
            found[f"the teacher's {name}" + (f" {number}" if isinstance(part, tuple) else "")] = tensor
    return found
