"""Where a cell's teacher outputs come from: the live teacher, or the cache of what it would say."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, final

import torch
from torch import Tensor

from kdbench.data.batches import Batches, DeviceData
from kdbench.data.groups import Group
from kdbench.method import ViewPlan
from kdbench.models.fuse import fused
from kdbench.net import Net, Outputs, Part
from kdbench.teachers.cache import STORED, TeacherCache
from kdbench.teachers.load import Teacher
from kdbench.utils.device import autocast, memory_format
from kdbench.utils.precision import Precision

Kind = Literal["live", "cache"]
_BLOCK = 32
"""Steps whose outputs are read from a cache at once."""


@final
class LiveTeacher:
    """A teacher on the device, with its batch norms fused."""

    def __init__(self, teacher: Teacher, precision: Precision, device: torch.device) -> None:
        self.teacher, self.precision, self.device = teacher, precision, device

    @cached_property
    def net(self) -> Net:
        """The network that is asked; made when it is first needed."""
        layout = memory_format(self.device, self.precision)
        return fused(self.teacher.net).to(memory_format=layout)

    @torch.no_grad()
    def outputs(self, images: Tensor, reads: frozenset[Part]) -> Outputs:
        """Outputs for images ``(V*B, 3, H, W)``."""
        if not reads:
            head = self.net.backbone.head()
            return Outputs("teacher", weight=head.weight, bias=head.bias)
        with autocast(self.device, self.precision):
            return self.net(images, reads, "teacher")  # type: ignore[no-any-return]

    def forward(self, data: DeviceData, pairs: Tensor) -> dict[Part, Tensor]:
        """Return the parts that a cache keeps, for pairs of image and view ``(P,)``."""
        outputs = self.outputs(data.images.views(pairs), STORED)
        return {"logits": outputs.logits, "penultimate": outputs.penultimate}


class Reader(abc.ABC):
    """Teacher outputs for one plan's views of the batches of one seed.

    What is done for a group of images has two halves: ``inputs`` looks things up on the host, ``outputs`` works on the
    device alone, so that it can be part of a CUDA graph.
    """

    @abc.abstractmethod
    def inputs(self, group: Group) -> dict[Part, Tensor]:
        """Tensors on the device that ``outputs`` needs besides the images."""

    @abc.abstractmethod
    def outputs(self, images: Tensor, inputs: Mapping[Part, Tensor]) -> Outputs:
        """Outputs for a group's images ``(V*n, 3, H, W)``."""


@final
class LiveReader(Reader):
    """Asks the live teacher."""

    def __init__(self, live: LiveTeacher, reads: frozenset[Part]) -> None:
        self._live, self._reads = live, reads

    def inputs(self, group: Group) -> dict[Part, Tensor]:  # noqa: ARG002
        """Nothing."""
        return {}

    def outputs(self, images: Tensor, inputs: Mapping[Part, Tensor]) -> Outputs:  # noqa: ARG002
        """Forward the images."""
        return self._live.outputs(images, self._reads)


@final
class CachedReader(Reader):
    """Reads a cache, some steps at a time."""

    def __init__(
        self, cache: TeacherCache, teacher: Net, batches: Batches, plan: ViewPlan, reads: frozenset[Part]
    ) -> None:
        self._cache, self._batches, self._plan, self._reads = cache, batches, plan, reads
        head = teacher.backbone.head()
        self._weight, self._bias = head.weight, head.bias
        self._where = (0, -1)
        self._block: dict[Part, Tensor] = {}

    def inputs(self, group: Group) -> dict[Part, Tensor]:
        """Return the cached parts of a group's rows."""
        epoch, start = self._batches.epoch, group.step - group.step % _BLOCK
        if self._where != (epoch, start):
            steps = range(start, min(start + _BLOCK, self._batches.steps))
            pairs = self._batches.visits(steps, self._plan).numpy()
            self._block = {part: self._to_device(self._cache.read(pairs, part)) for part in sorted(self._reads)}
            self._where = (epoch, start)
        num_views = self._plan.num_views
        first = num_views * (group.first - start * self._batches.schedule.batch_size)
        rows = slice(first, first + num_views * len(group.index))
        return {part: values[rows] for part, values in self._block.items()}

    def outputs(self, images: Tensor, inputs: Mapping[Part, Tensor]) -> Outputs:  # noqa: ARG002
        """Wrap what was read."""
        return Outputs(
            "teacher",
            logits=inputs.get("logits"),
            penultimate=inputs.get("penultimate"),
            weight=self._weight,
            bias=self._bias,
        )

    def _to_device(self, values: Tensor) -> Tensor:
        device = self._batches.data.device
        return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


@final
@dataclass(frozen=True, eq=False)
class TeacherSource:
    """One teacher, live or cached."""

    live: LiveTeacher
    cache: TeacherCache | None

    @property
    def teacher(self) -> Teacher:
        """The teacher itself."""
        return self.live.teacher

    @property
    def kind(self) -> Kind:
        """How records name it."""
        return "cache" if self.cache else "live"

    def reader(self, batches: Batches, plan: ViewPlan, reads: frozenset[Part]) -> Reader:
        """Outputs of the parts ``reads`` for a plan's views."""
        if self.cache:
            return CachedReader(self.cache, self.teacher.net, batches, plan, reads)
        return LiveReader(self.live, reads)

    def is_finite(self, batches: Batches, plan: ViewPlan, reads: frozenset[Part], step: int) -> bool:
        """Return whether all outputs for a step of this epoch are finite; looks them up again."""
        reader = self.reader(batches, plan, reads)
        for group in batches.groups(step):
            parts = reader.outputs(batches.images(group, plan), reader.inputs(group)).parts().values()
            tensors = [tensor for part in parts for tensor in (part if isinstance(part, tuple) else (part,))]
            if not all(tensor.isfinite().all() for tensor in tensors):
                return False
        return True
