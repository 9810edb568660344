"""Where a cell's teacher outputs come from: the live teacher, or the cache of what it would say."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast, final

import torch
from torch import Tensor

from kdbench.data.batches import Batches, DeviceData
from kdbench.data.decoding.streamed import StreamedImages
from kdbench.data.groups import Group
from kdbench.method import ViewPlan
from kdbench.models.fuse import fused
from kdbench.net import Net, Outputs, Part
from kdbench.teachers.cache import STORED, TeacherCache
from kdbench.teachers.load import Teacher
from kdbench.teachers.pairs import PoolPairs, stored_parts
from kdbench.teachers.places import PoolForward
from kdbench.utils.device import autocast, forward_batch, memory_format
from kdbench.utils.precision import Precision

Kind = Literal["live", "cache"]
_BLOCK = 32
"""Steps whose outputs are read from a cache at once."""
_STREAMED = 256
"""Largest number of streamed images that are forwarded at once: they are large."""


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

    def row_bytes(self) -> dict[Part, int]:
        """Return the bytes of one view's outputs, of the parts that a cache keeps."""
        parts = self.outputs(torch.zeros(1, 3, *self.net.image_size, device=self.device), STORED)
        return {"logits": parts.logits.nbytes, "penultimate": parts.penultimate.nbytes}

    @torch.no_grad()
    def logits(self, penultimate: Tensor) -> Tensor:
        """Compute logits from penultimate features ``(V*B, D)``, as the network does."""
        with autocast(self.device, self.precision):
            return self.teacher.net.backbone.head()(penultimate)  # type: ignore[no-any-return]


@final
class Query(PoolForward):
    """A live teacher that is queried for views of a data set by their numbers, or for a whole pool of crops."""

    def __init__(self, live: LiveTeacher, data: DeviceData) -> None:
        self._live, self._data = live, data

    @property
    def batch(self) -> int:
        """Number of views to forward at once; what is stored of a view can depend on it in its last bits."""
        size = forward_batch(self._data.device)
        return min(size, _STREAMED) if isinstance(self._data.images, StreamedImages) else size

    def __call__(self, pairs: Tensor) -> Mapping[Part, Tensor]:
        """Return the parts that a cache keeps, for pairs of image and view ``(P,)``."""
        return self._live.forward(self._data, pairs)

    def pool(self, pairs: PoolPairs, first: int, size: int, parts: frozenset[Part]) -> Iterator[Mapping[Part, Tensor]]:
        """Forward batches of crops, each in every rotation; see `PoolForward.pool`."""
        images = self._data.images
        assert isinstance(images, StreamedImages), "only streamed images have a pool"
        for crops in images.pool(first, size):
            turned = (crops.rot90(turns, (2, 3)) for turns in pairs.rotations)
            outputs = [self._live.outputs(images.scaled(views), parts).parts() for views in turned]
            yield {part: torch.stack([cast("Tensor", each[part]).cpu() for each in outputs]) for part in parts}


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
    """Reads a cache, some steps at a time; logits that it does not store are computed from what it does."""

    def __init__(
        self, cache: TeacherCache, live: LiveTeacher, batches: Batches, plan: ViewPlan, reads: frozenset[Part]
    ) -> None:
        self._cache, self._live, self._batches, self._plan, self._reads = cache, live, batches, plan, reads
        net = live.teacher.net
        self._stored = stored_parts(reads, batches.data.images.numbering, net.widths)
        head = net.backbone.head()
        self._weight, self._bias = head.weight, head.bias
        self._where = (0, -1)
        self._block: dict[Part, Tensor] = {}

    def inputs(self, group: Group) -> dict[Part, Tensor]:
        """Return the cached parts of a group's rows."""
        epoch, start = self._batches.epoch, group.step - group.step % _BLOCK
        if self._where != (epoch, start):
            steps = range(start, min(start + _BLOCK, self._batches.steps))
            pairs = self._batches.visits(steps, self._plan).numpy()
            self._block = {part: self._to_device(self._cache.read(pairs, part)) for part in sorted(self._stored)}
            self._where = (epoch, start)
        num_views = self._plan.num_views
        first = num_views * (group.first - start * self._batches.schedule.batch_size)
        rows = slice(first, first + num_views * len(group.index))
        return {part: values[rows] for part, values in self._block.items()}

    def outputs(self, images: Tensor, inputs: Mapping[Part, Tensor]) -> Outputs:  # noqa: ARG002
        """Wrap what was read."""
        logits = inputs.get("logits")
        if "logits" in self._reads - self._stored:
            logits = self._live.logits(inputs["penultimate"])
        return Outputs(
            "teacher",
            logits=logits,
            penultimate=inputs["penultimate"] if "penultimate" in self._reads else None,
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

    def computed(self, reads: frozenset[Part]) -> frozenset[Part]:
        """Return the parts that the cache does not store: they are computed from those that it does."""
        if not self.cache:
            return frozenset()
        return reads - stored_parts(reads, self.cache.identity.numbering, self.teacher.net.widths)

    def reader(self, batches: Batches, plan: ViewPlan, reads: frozenset[Part]) -> Reader:
        """Outputs of the parts ``reads`` for a plan's views."""
        if self.cache:
            return CachedReader(self.cache, self.live, batches, plan, reads)
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
