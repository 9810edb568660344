"""What a run trains in an epoch: pre-training first, where the method has some, then the protocol's own epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from kdbench.experiment.cell import Cell
from kdbench.experiment.protocol import Protocol
from kdbench.method import Loss, Method, Reads
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
    rate: Callable[[int], float]
    """Learning rate of an epoch, counted from 1 in this phase."""
    modules: tuple[nn.Module, ...]
    """Student and method."""
    trained: tuple[nn.Module, ...]
    """Of these, what is in training mode."""
    frozen: tuple[nn.Module, ...]
    """Of the trained ones, what is not."""
    parameters: tuple[nn.Parameter, ...]
    """What the optimiser changes."""

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
        """Whether an epoch of this phase has this number in streams, views and saved states."""
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

    def optimizer(self, protocol: Protocol) -> torch.optim.SGD:
        """A fresh optimiser by the protocol's rules, before the phase's first epoch."""
        optimizer = torch.optim.SGD(
            self.parameters,
            lr=self.rate(1),
            momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
            nesterov=protocol.nesterov,
            fused=True,
        )
        # A first step that overflows in fp16 is left out, and the fused optimiser would go on from a momentum that
        # nobody has set.
        for parameter in self.parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


def phases_of(cell: Cell, method: Method, student: Net) -> tuple[Phase, ...]:
    """The phases of a run in their order; the last one is the protocol's.

    Parameters
    ----------
    student
        What the method has made of it.
    """
    protocol, before = cell.protocol, 1 - cell.epochs.start
    modules = student, method
    trainable = [p for module in modules for p in module.parameters() if p.requires_grad]
    first = method.pretrain(student) if before else None
    frozen = first.freeze if first else ()
    stays = _ids(frozen)
    main = Phase(
        loss=method.loss,
        reads=method.reads(method.config, "training"),
        pretraining=False,
        epochs=protocol.epochs,
        rate=lambda epoch: protocol.rate(cell.student, epoch),
        modules=modules,
        trained=modules,
        frozen=frozen,
        parameters=tuple(p for p in trainable if id(p) not in stays),
    )
    if first is None:
        return (main,)
    highest, milestones = first.learning_rate or protocol.rate(cell.student, 1), first.milestones
    early = _ids(first.train)
    return (
        Phase(
            loss=first.loss,
            reads=method.reads(method.config, "pretraining"),
            pretraining=True,
            epochs=before,
            rate=lambda epoch: highest * protocol.decay ** sum(epoch > part * before for part in milestones),
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
    own = _ids([student])
    found = {id(p): p for module in (made, method) for p in module.parameters() if p.requires_grad}
    return sum(parameter.numel() for key, parameter in found.items() if key not in own)
