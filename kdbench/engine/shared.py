"""What cells in lockstep have in common: the images of a step, and what teachers say of them, made once.

A step has two halves: `SharedInputs.look_up` finds on the host what the step needs, `SharedInputs.make` works on the
device alone, so that it can be part of a CUDA graph.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from kdbench.data.batches import Batches
from kdbench.method import ViewPlan
from kdbench.net import Outputs, Part
from kdbench.teachers.outputs import Reader, TeacherSource
from kdbench.utils.device import Span


@final
@dataclass(frozen=True, slots=True)
class Group:
    """A source of teacher outputs and a plan of views; runs of one group get the same tensors."""

    source: TeacherSource | None
    plan: ViewPlan


@final
@dataclass(frozen=True, slots=True)
class TeacherInputs:
    """What a group's reader looked up for a step: tensors on the device, and the time that took."""

    parts: dict[Part, Tensor]
    span: Span


@final
@dataclass(frozen=True, slots=True)
class StepInputs:
    """What was looked up for a step."""

    ids: dict[ViewPlan, Tensor]
    """View ids ``(V, B)`` of the plans whose images are made; all other plans are the beginning of one of them."""
    teacher: dict[Group, TeacherInputs]

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in an order that steps of the same groups share."""
        return [*self.ids.values(), *(tensor for inputs in self.teacher.values() for tensor in inputs.parts.values())]

    def clone(self) -> StepInputs:
        """Copy the tensors to memory that no later step uses."""
        return StepInputs(
            {plan: ids.clone() for plan, ids in self.ids.items()},
            {
                group: replace(inputs, parts={part: tensor.clone() for part, tensor in inputs.parts.items()})
                for group, inputs in self.teacher.items()
            },
        )


@final
@dataclass(frozen=True, slots=True)
class Shared:
    """What the runs of a group are given in a step."""

    images: Tensor
    """``(V*B, 3, H, W)``."""
    teacher: Outputs
    spans: tuple[Span, ...]
    """The time that making it took."""


@functools.cache
def makers(plans: frozenset[ViewPlan]) -> dict[ViewPlan, ViewPlan]:
    """Return for each plan one that begins with it and is the beginning of no other: that one's images are made."""
    longest = [plan for plan in plans if not any(other != plan and other.begins_with(plan) for other in plans)]
    return {plan: next(maker for maker in longest if maker.begins_with(plan)) for plan in plans}


@final
class SharedInputs:
    """Batches of one protocol and seed, and the readers of the teachers that are queried with them."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self.batches, self.device = batches, device
        self._readers: dict[Group, Reader] = {}

    def open(self, wanted: Iterable[tuple[Group, frozenset[Part]]]) -> None:
        """Let runs be given, from now on, what each of them needs of its group's teacher."""
        needs: dict[Group, frozenset[Part]] = {}
        for group, parts in wanted:
            needs[group] = needs.get(group, frozenset()) | parts
        self._readers = {
            group: group.source.reader(self.batches, group.plan, parts)
            for group, parts in needs.items()
            if group.source
        }

    def look_up(self, step: int, groups: Iterable[Group]) -> StepInputs:
        """Look up what a step needs."""
        teacher: dict[Group, TeacherInputs] = {}
        for group in dict.fromkeys(groups):
            with Span(self.device) as span:
                parts = self._readers[group].inputs(step) if group in self._readers else {}
            teacher[group] = TeacherInputs(parts, span)
        made = dict.fromkeys(makers(frozenset(group.plan for group in teacher)).values())
        return StepInputs({plan: self.batches.ids(step, plan) for plan in made}, teacher)

    def make(self, index: Tensor, inputs: StepInputs) -> Mapping[Group, Shared]:
        """Make images and teacher outputs of each group, for images at ``index`` ``(B,)``."""
        images: dict[ViewPlan, tuple[Tensor, Span]] = {}
        for plan, ids in inputs.ids.items():
            with Span(self.device) as augmenting:
                images[plan] = self.batches.images(index, ids, plan), augmenting
        maker = makers(frozenset(group.plan for group in inputs.teacher))
        shared: dict[Group, Shared] = {}
        for group, looked_up in inputs.teacher.items():
            whole, augmenting = images[maker[group.plan]]
            views = whole[: group.plan.num_views * len(index)]
            with Span(self.device) as querying:
                outputs = (
                    self._readers[group].outputs(views, looked_up.parts)
                    if group in self._readers
                    else Outputs("teacher")
                )
            shared[group] = Shared(views, outputs, (augmenting, looked_up.span, querying))
        return shared
