"""SGD whose gradients are kept apart by groups of the loss's terms, each of which has a momentum of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from kdbench.errors import UserError
from kdbench.experiment.rule_groups import OptimizerRules
from kdbench.method import TermGroup

_BUFFER = "momentum_buffer"


def check_momenta(rules: OptimizerRules, groups: Sequence[TermGroup]) -> None:
    """Raise UserError where a protocol's optimiser cannot keep the gradients of a method's groups apart."""
    if len(groups) == 1:
        return
    what = "the method gives each group of its terms a momentum of its own"
    if not rules.momentum:
        raise UserError(f"{what}, and the protocol's {rules.name} has no momentum: choose a protocol with momentum SGD")
    for group in groups:
        for deviation in (group.momentum, group.partial_momentum):
            if not 0 <= rules.momentum + deviation < 1:
                raise UserError(
                    f"{what}, and {rules.momentum:g} {deviation:+g} is none: it must be at least 0 and below 1"
                )


@final
class SplitSGD(torch.optim.Optimizer):
    """SGD with one gradient and one momentum for each parameter and group of terms.

    Its parameter groups are the groups of terms. Each of them has tensors of its own that share the memory of the
    parameters, so that each has a ``grad`` of its own. The groups update the parameters one after another.

    Parameters
    ----------
    parameters
        What is trained; they stay where they are in memory.
    """

    def __init__(
        self,
        rules: OptimizerRules,
        parameters: Sequence[nn.Parameter],
        groups: Sequence[TermGroup],
        learning_rate: float,
    ) -> None:
        check_momenta(rules, groups)
        self._rules, self._parameters, self._groups = rules, tuple(parameters), tuple(groups)
        self._step_supports_amp_scaling = True  # a step that overflows in fp16 is left out without waiting for it
        shared = [{"params": [parameter.detach() for parameter in parameters]} for _ in groups]
        super().__init__(shared, {"lr": learning_rate})
        for tensor in self._tensors():
            self.state[tensor][_BUFFER] = torch.zeros_like(tensor)

    def _tensors(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    @contextlib.contextmanager
    def collecting(self, number: int) -> Iterator[None]:
        """Let a backward pass add to the gradients of a group, given by its number."""
        pairs = list(zip(self._parameters, self.param_groups[number]["params"], strict=True))
        for parameter, tensor in pairs:
            parameter.grad = tensor.grad
        yield
        for parameter, tensor in pairs:
            tensor.grad, parameter.grad = parameter.grad, None

    def sums(self) -> list[Tensor]:
        """Return the gradient of the whole loss of each parameter that has one."""
        parts = ([t.grad for t in each if t.grad is not None] for each in self._by_parameter())
        return [torch.stack(part).sum(dim=0) for part in parts if part]

    def _by_parameter(self) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(group["params"] for group in self.param_groups), strict=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters; in fp16 by the scale, and with the verdict on all groups, that the scaler has left."""
        assert closure is None
        scale, overflow = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        momentum, decay = self._rules.momentum, self._rules.weight_decay
        assert momentum is not None
        reached = [all(tensor.grad is not None for tensor in each) for each in self._by_parameter()]
        for terms, group in zip(self._groups, self.param_groups, strict=True):
            for whole in (True, False):
                pairs = zip(group["params"], reached, strict=True)
                tensors = [tensor for tensor, by_all in pairs if by_all is whole and tensor.grad is not None]
                buffers = [self.state[tensor][_BUFFER] for tensor in tensors]
                gradients = [tensor.grad for tensor in tensors]
                if terms.weight_decay == "partial" and not whole:
                    factor = decay if scale is None else decay * scale
                    # A buffer of zeros is one whose first step this is.
                    gradients = [
                        gradient + factor * buffer.any() * tensor
                        for tensor, gradient, buffer in zip(tensors, gradients, buffers, strict=True)
                    ]
                sgd(
                    tensors,
                    gradients,
                    buffers,
                    fused=True,
                    grad_scale=scale,
                    found_inf=overflow,
                    weight_decay=decay if terms.weight_decay == "yes" else 0.0,
                    momentum=momentum + (terms.momentum if whole else terms.partial_momentum),
                    lr=group["lr"],
                    dampening=0.0,
                    nesterov=bool(self._rules.nesterov),
                    maximize=False,
                )
