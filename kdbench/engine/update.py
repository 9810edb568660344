"""The update of a step: the gradients of its groups of images, added up, then one step of the optimiser."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench.data.groups import Group
from kdbench.engine.optim import clip_gradients, trained
from kdbench.engine.phase import Phase
from kdbench.engine.split import SplitSGD
from kdbench.engine.step import Step, StepObserver
from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol
from kdbench.functional import at_least_float32
from kdbench.method import Batch, Rows
from kdbench.models.layers import running_statistics_kept
from kdbench.net import Outputs
from kdbench.utils.ranks import Ranks


@final
class StepUpdate:
    """Gradients of the groups of a step, and what the method remembers of them. Nothing waits for the device.

    A group counts by its share of the step's images, so that the result is that of the mean over all of them. Only the
    first group moves running statistics of batch norms.
    """

    def __init__(self, module: Step, protocol: Protocol, device: torch.device, ranks: Ranks) -> None:
        self._module, self._rules, self._ranks = module, protocol.rules.optimizer, ranks
        self.scaler = torch.amp.GradScaler(device.type, enabled=protocol.precision == "fp16")
        self._batch_norms = [each for each in module.modules() if isinstance(each, _BatchNorm)]
        self._values = torch.empty(0)
        self._remembered: list[Rows] = []
        self.terms: tuple[str, ...] = ()
        """Names of the loss terms of the last group."""

    def enter(self, phase: Phase, optimizer: torch.optim.Optimizer) -> None:
        """Update, from now on, what a phase trains."""
        self._phase, self._optimizer = phase, optimizer

    def add(self, group: Group, batch: Batch, teacher: Outputs, observer: StepObserver) -> None:
        """Add the gradients of a group; this process's first one of a step begins anew."""
        observer.begins(batch, teacher)
        with contextlib.nullcontext() if group.number == 0 else running_statistics_kept(self._batch_norms):
            terms, rows = self._module(self._phase, batch, teacher)
        observer.computed(terms)
        values = torch.stack([at_least_float32(value) for value in terms.values()])
        if group.number == self._ranks.rank:
            self._optimizer.zero_grad(set_to_none=True)
            self._values, self._remembered = torch.zeros_like(values), []
        self.terms = tuple(terms)
        if isinstance(self._optimizer, SplitSGD):
            self._add_split(self._optimizer, terms, group.share)
        else:
            self.scaler.scale(values.sum() * group.share).backward()
        self._values += values.detach() * group.share
        if rows:
            self._remembered.append(rows)

    def _add_split(self, optimizer: SplitSGD, terms: Mapping[str, Tensor], share: float) -> None:
        """Add the gradients of each group of terms apart, by one backward pass for each through the one graph."""
        parts = self._parts(terms)
        for number, part in enumerate(parts):
            with optimizer.collecting(number):
                if part.requires_grad:
                    self.scaler.scale(part * share).backward(retain_graph=number < len(parts) - 1)

    def _parts(self, terms: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the sum of the terms of each group.

        Raises
        ------
        UserError
            A group has no term, or a term no group.
        """
        groups = self._phase.groups
        named = [name for group in groups for name in group.terms or ()]
        parts = [group.terms or terms.keys() - set(named) for group in groups]
        if not all(parts) or sorted(name for part in parts for name in part) != sorted(terms):
            listed = " and ".join(", ".join(sorted(group.terms or {"the others"})) for group in groups)
            raise UserError(
                f"the loss has the terms {', '.join(terms)}, and its gradients are to be kept apart by {listed}: each "
                "group needs a term of the loss, and each term one group"
            )
        return [torch.stack([at_least_float32(terms[name]) for name in terms if name in part]).sum() for part in parts]

    def apply(self) -> Tensor:
        """Let the optimiser do its step and the method remember; return the loss terms ``(num_terms,)``.

        Gradients, terms and rows are those of all processes.
        """
        with self._ranks.unbroken():
            gradients = [tensor.grad for tensor in trained(self._optimizer) if tensor.grad is not None]
            self._ranks.sum([*gradients, self._values])
            clip_gradients(self._rules, self._phase.parameters, self._optimizer, self.scaler)
            self.scaler.step(self._optimizer)
            self.scaler.update()
            if self._remembered:
                self._module.method.remember({name: self._rows_of_all(name) for name in self._remembered[0]})
        return self._values

    def share_statistics(self) -> None:
        """Give all processes the running statistics of batch norms, which those of the first group have moved."""
        self._ranks.send([buffer for each in self._batch_norms for buffer in each.buffers(recurse=False)])

    def _rows_of_all(self, name: str) -> Tensor:
        """Return the rows of a name of each group of the step, in the order of the batch."""
        by_rank = self._ranks.gather([rows[name] for rows in self._remembered])
        return torch.cat([rows for groups in zip(*by_rank, strict=True) for rows in groups])
