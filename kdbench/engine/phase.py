"""What a run trains in an epoch: pre-training first, where the method has some, then the protocol's own epochs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from kdbench.engine.optim import LearningRate, build_optimizer
from kdbench.experiment.cell import Cell
from kdbench.experiment.rule_groups import OptimizerRules, ScheduleRules
from kdbench.method import ONE_GROUP, Loss, Method, Reads, TermGroup
from kdbench.net import Net


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Phase:
    """Epochs with one loss, one schedule of the learning rate and one set of trained parameters."""

    loss: Loss
    reads: Reads
    """What the loss reads of student and teacher; a network of which that is nothing is not run."""
    pretraining: bool
    """Whether the protocol's epochs come after these."""
    epochs: int
    """Number of epochs in this phase."""
    learning_rate: LearningRate
    modules: tuple[nn.Module, ...]
    """Student and method."""
    trained: tuple[nn.Module, ...]
    """Of these, what is in training mode."""
    frozen: tuple[nn.Module, ...]
    """Of the trained ones, what is not."""
    parameters: tuple[nn.Parameter, ...]
    """What the optimiser changes."""
    groups: tuple[TermGroup, ...] = ONE_GROUP
    """Of the loss's terms, whose gradients are kept apart."""

    def stream_epoch(self, epoch: int) -> int:
        """Return the number by which streams, views and saved states call an epoch of this phase, counted from 1.

        The protocol's epochs are 1, 2, ... in every cell, so that all methods see the same images in them; those of
        pre-training end with 0.
        """
        return epoch - self.epochs if self.pretraining else epoch

    def epoch_of(self, stream_epoch: int) -> int:
        """Return which epoch of this phase, counted from 1, `stream_epoch` gives this number."""
        return stream_epoch + self.epochs if self.pretraining else stream_epoch

    def holds(self, stream_epoch: int) -> bool:
        """Return whether an epoch of this phase has this number in streams, views and saved states."""
        return (stream_epoch < 1) == self.pretraining

    def set_modes(self) -> None:
        """Put what is trained into training mode, and all else into eval mode and without gradients."""
        for module in self.modules:
            module.eval().requires_grad_(False)
        for module in self.trained:
            module.train()
        for module in self.frozen:
            module.eval()
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def optimizer(self, rules: OptimizerRules) -> torch.optim.Optimizer:
        """Return a fresh optimiser by the protocol's rules, before the phase's first epoch."""
        return build_optimizer(rules, self.parameters, self.learning_rate(1, 0), self.groups)


def phases_of(cell: Cell, method: Method, student: Net, steps: int) -> tuple[Phase, ...]:
    """Return the phases of a run in their order; the last one is the protocol's.

    Parameters
    ----------
    student
        What the method has made of it.
    steps
        Steps of an epoch.
    """
    schedule, before = cell.protocol.rules.schedule, 1 - cell.epochs.start
    highest = cell.protocol.rules.optimizer.learning_rate_of(cell.student)
    modules = student, method
    trainable = [p for module in modules for p in module.parameters() if p.requires_grad]
    first = method.pretrain(student) if before else None
    frozen = first.freeze if first else ()
    stays = _ids(frozen)
    main = Phase(
        loss=method.loss,
        reads=method.reads(method.config, "training"),
        pretraining=False,
        epochs=schedule.epochs,
        learning_rate=LearningRate(highest, schedule, steps),
        modules=modules,
        trained=modules,
        frozen=frozen,
        parameters=tuple(p for p in trainable if id(p) not in stays),
        groups=method.term_groups(method.config),
    )
    if first is None:
        return (main,)
    # Pre-training has milestones of its own, and no warm-up. It begins where the protocol's epochs begin: a training of
    # one or two epochs may be past a milestone from the first on.
    beginning = highest if schedule.per_step else main.learning_rate(1, 0)
    schedule = ScheduleRules(
        epochs=before, batch_size=schedule.batch_size, milestones=first.milestones, decay=schedule.decay
    )
    early = _ids(first.train)
    return (
        Phase(
            loss=first.loss,
            reads=method.reads(method.config, "pretraining"),
            pretraining=True,
            epochs=before,
            learning_rate=LearningRate(first.learning_rate or beginning, schedule, steps),
            modules=modules,
            trained=first.train,
            frozen=(),
            parameters=tuple(p for p in trainable if id(p) in early),
        ),
        main,
    )


def _ids(modules: Iterable[nn.Module]) -> set[int]:
    """Identities of the modules' parameters."""
    return {id(parameter) for module in modules for parameter in module.parameters()}


def count_extra_parameters(student: Net, made: Net, method: Method) -> int:
    """Number of trainable parameters beyond the student's own."""
    of_student = _ids([student])
    trainable = {id(p): p for module in (made, method) for p in module.parameters() if p.requires_grad}
    return sum(parameter.numel() for key, parameter in trainable.items() if key not in of_student)
