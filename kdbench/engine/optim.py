"""Optimisers of torch by name, and the learning rate of every step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from kdbench.engine.split import SplitSGD
from kdbench.experiment.rule_groups import OptimizerRules, ScheduleRules
from kdbench.method import ONE_GROUP, TermGroup


@final
@dataclass(frozen=True, slots=True)
class LearningRate:
    """The learning rate of a phase: a pure function of the place in it, so that a resumed run has the same."""

    highest: float
    schedule: ScheduleRules
    steps: int
    """Steps of an epoch."""

    def __call__(self, epoch: int, step: int) -> float:
        """Return the learning rate of a step; epochs count from 1, steps of an epoch from 0."""
        return self.highest * self.schedule.factor(epoch, step, self.steps)

    def holder(self, device: torch.device) -> Tensor | None:
        """Return a scalar that an optimiser reads each step's learning rate from; None where an epoch has one alone.

        A step that is replayed as a CUDA graph reads it where it was recorded, so it is written in place. On a GPU the
        fused kernels read float32; on the CPU float64 is exact.
        """
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        return torch.zeros((), dtype=dtype, device=device) if self.schedule.per_step else None


def build_optimizer(
    rules: OptimizerRules,
    parameters: Sequence[nn.Parameter],
    learning_rate: float,
    groups: Sequence[TermGroup] = ONE_GROUP,
) -> torch.optim.Optimizer:
    """Return a fresh optimiser, fused: one kernel updates many parameters, and the fp16 scaler never waits for it."""
    if len(groups) > 1:
        return SplitSGD(rules, parameters, groups, learning_rate)
    if rules.name == "AdamW":
        assert rules.betas is not None
        # The warning is about steps that are never recorded; the fused kernel is the same either way.
        warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
        return torch.optim.AdamW(
            parameters,
            lr=learning_rate,
            betas=rules.betas,
            weight_decay=rules.weight_decay,
            fused=True,
            capturable=any(parameter.device.type == "cuda" for parameter in parameters),
        )
    assert rules.momentum is not None
    assert rules.nesterov is not None
    optimizer = torch.optim.SGD(
        parameters,
        lr=learning_rate,
        momentum=rules.momentum,
        weight_decay=rules.weight_decay,
        nesterov=rules.nesterov,
        fused=True,
    )
    # A first step that overflows in fp16 is left out, and the fused optimiser would continue from a momentum that
    # nobody has set.
    for parameter in parameters if rules.momentum else ():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a saved state, be it of another device; what depends on the device stays as the optimiser was made."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group |= {key: optimizer.defaults[key] for key in ("fused", "capturable") if key in optimizer.defaults}


def clip_gradients(
    rules: OptimizerRules,
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Scale the gradient down to the largest norm that the rules allow, if they do; never waits for the device.

    The norm is that of the gradient of the whole loss; where its parts are kept apart, all get the same factor.

    A norm that is not finite leaves gradients that are not: in fp16 the scaler then leaves the step out, and otherwise
    the run diverges as it would without clipping.
    """
    if rules.gradient_clip is None:
        return
    scaler.unscale_(optimizer)
    if not isinstance(optimizer, SplitSGD):
        nn.utils.clip_grad_norm_(parameters, rules.gradient_clip)
        return
    norm = nn.utils.get_total_norm(optimizer.sums())
    nn.utils.clip_grads_with_norm_(trained(optimizer), rules.gradient_clip, norm)


def trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the tensors whose gradients an optimiser takes."""
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]
