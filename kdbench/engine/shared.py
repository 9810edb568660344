"""What cells in lockstep have in common: the images of a group, and what teachers say of them, made once.

That has two halves: `SharedInputs.look_up` finds on the host what a group needs, `SharedInputs.make` works on the
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
from kdbench.data.groups import Group
from kdbench.method import ViewPlan
from kdbench.net import Outputs, Part
from kdbench.teachers.outputs import Reader, Views
from kdbench.teachers.sources import TeacherSource
from kdbench.utils.device import Span


@final
@dataclass(frozen=True, slots=True)
class Feed:
    """A source of teacher outputs and a plan of views; runs of one feed are given the same tensors."""

    source: TeacherSource | None
    plan: ViewPlan

    @property
    def sides(self) -> tuple[int | None, ...]:
        """Sides of the views that it needs, in pixels: the student's, which is None, and the teacher's own."""
        return (None, *sorted(self.source.sides)) if self.source else (None,)


Query = tuple[TeacherSource, tuple[str, int]]
"""A live teacher, and a view, by its name in plans, for which it is queried."""


@final
@dataclass(frozen=True, slots=True)
class TeacherInputs:
    """What a feed's reader looked up for a group of images: tensors on the device, and the time that took."""

    parts: dict[str, Tensor]
    span: Span


@final
@dataclass(frozen=True, slots=True)
class Inputs:
    """What was looked up for a group of images."""

    views: dict[tuple[ViewPlan, int | None], Tensor]
    """What the views of a plan at a side are made of; plans that are not here are the beginning of one of these."""
    teacher: dict[Feed, TeacherInputs]

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in an order that groups of the same feeds share."""
        return [*self.views.values(), *(tensor for inputs in self.teacher.values() for tensor in inputs.parts.values())]

    def clone(self) -> Inputs:
        """Copy the tensors to memory that no later group uses."""
        return Inputs(
            {key: source.clone() for key, source in self.views.items()},
            {
                feed: replace(inputs, parts={part: tensor.clone() for part, tensor in inputs.parts.items()})
                for feed, inputs in self.teacher.items()
            },
        )


@final
@dataclass(frozen=True, slots=True)
class Shared:
    """What the runs of a feed are given of a group of images."""

    images: Tensor
    """``(V*n, 3, H, W)``."""
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
        self._readers: dict[Feed, Reader] = {}
        self._reads: dict[Query, frozenset[Part]] = {}
        """What is read of a live teacher for a view that feeds may have in common."""

    def open(self, wanted: Iterable[tuple[Feed, frozenset[Part]]]) -> None:
        """Let runs be given, from now on, what each of them needs of its feed's teacher."""
        needs: dict[Feed, frozenset[Part]] = {}
        for feed, parts in wanted:
            needs[feed] = needs.get(feed, frozenset()) | parts
        self._readers, self._reads = {}, {}
        for feed, parts in needs.items():
            if not feed.source:
                continue
            if not feed.source.is_live or not self.batches.data.images.numbering.rows_share_a_crop:
                self._readers[feed] = feed.source.reader(self.batches, feed.plan, parts)
                continue
            for row in feed.plan.rows:
                query = feed.source, row
                self._reads[query] = self._reads.get(query, frozenset()) | parts

    def look_up(self, group: Group, feeds: Iterable[Feed]) -> Inputs:
        """Look up what a group of images needs."""
        teacher: dict[Feed, TeacherInputs] = {}
        for feed in dict.fromkeys(feeds):
            with Span(self.device) as span:
                parts = self._readers[feed].inputs(group) if feed in self._readers else {}
            teacher[feed] = TeacherInputs(parts, span)
        maker = makers(frozenset(feed.plan for feed in teacher))
        made = dict.fromkeys((maker[feed.plan], side) for feed in teacher for side in feed.sides)
        return Inputs({key: self.batches.views.look_up(group, *key) for key in made}, teacher)

    def make(self, index: Tensor, inputs: Inputs) -> Mapping[Feed, Shared]:
        """Make images and teacher outputs of each feed, for images at ``index`` ``(n,)``."""
        images: dict[tuple[ViewPlan, int | None], tuple[Tensor, Span]] = {}
        for (plan, side), source in inputs.views.items():
            with Span(self.device) as augmenting:
                images[plan, side] = self.batches.views.make(index, source, plan, side), augmenting
        maker = makers(frozenset(feed.plan for feed in inputs.teacher))
        answers: dict[Query, Outputs] = {}
        shared: dict[Feed, Shared] = {}
        for feed, looked_up in inputs.teacher.items():
            made = {side: images[maker[feed.plan], side] for side in feed.sides}
            views = {side: whole[: feed.plan.num_views * len(index)] for side, (whole, _) in made.items()}
            with Span(self.device) as querying:
                if feed in self._readers:
                    outputs = self._readers[feed].outputs(views, looked_up.parts)
                elif feed.source:
                    outputs = self._query(feed.source, feed.plan, views, answers)
                else:
                    outputs = Outputs("teacher")
            spans = [span for _, span in made.values()]
            shared[feed] = Shared(views[None], outputs, (*spans, looked_up.span, querying))
        return shared

    def _query(self, source: TeacherSource, plan: ViewPlan, views: Views, answers: dict[Query, Outputs]) -> Outputs:
        """Query a live teacher view by view; for one that feeds have in common, once for all of them.

        What it says of the plain view does not depend on which methods with more views are in lockstep.
        """
        outputs = []
        chunks = {side: images.chunk(plan.num_views) for side, images in views.items()}
        for number, row in enumerate(plan.rows):
            query = source, row
            if query not in answers:
                images = {side: chunk[number] for side, chunk in chunks.items()}
                answers[query] = source.query(images, self._reads[query])
            outputs.append(answers[query])
        parts = frozenset.intersection(*(self._reads[source, row] for row in plan.rows))
        return Outputs.of_views([each.narrowed(parts) for each in outputs])
