"""What a teacher says of views: computed by the live teacher, read from the cache, or from a file of logits."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal, cast, final

import torch
from torch import Tensor

from kdbench.data.batches import Batches, DeviceData
from kdbench.data.decoding.streamed import StreamedImages
from kdbench.data.groups import Group
from kdbench.functional import at_least_float32
from kdbench.method import ViewPlan
from kdbench.models.fuse import fused
from kdbench.net import LOGITS, PARTS, Net, Outputs, Part
from kdbench.teachers.cache import STORED, TeacherCache
from kdbench.teachers.load import Teacher
from kdbench.teachers.pairs import Pairs, PoolPairs, stored_parts
from kdbench.teachers.places import PoolForward
from kdbench.utils.device import autocast, forward_batch, memory_format
from kdbench.utils.precision import Precision

Kind = Literal["live", "cache", "file"]
"""Where outputs come from."""
Views = Mapping[int | None, Tensor]
"""Views ``(V*n, 3, H, W)`` of a group's images by their side, in pixels; None is the student's."""
_BLOCK = 32
"""Steps whose outputs are read from a cache at once."""
_LARGE = 256
"""Largest number of images that are forwarded at once where they are streamed or resized: they are large."""


@final
class LiveTeacher:
    """A teacher on the device, with its batch norms fused."""

    def __init__(self, teacher: Teacher, precision: Precision, device: torch.device) -> None:
        self.teacher, self.precision, self.device = teacher, precision, device
        self.side = teacher.card.image_size
        """Side of the images that it takes, in pixels; None where they are the student's."""

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
        outputs = self.outputs(data.images.views(pairs, self.side), STORED)
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
        large = self._live.side is not None or isinstance(self._data.images, StreamedImages)
        return min(size, _LARGE) if large else size

    def __call__(self, pairs: Tensor) -> Mapping[Part, Tensor]:
        """Return the parts that a cache keeps, for pairs of image and view ``(P,)``."""
        return self._live.forward(self._data, pairs)

    def pool(self, pairs: PoolPairs, first: int, size: int, parts: frozenset[Part]) -> Iterator[Mapping[Part, Tensor]]:
        """Forward batches of crops, each in every rotation; see `PoolForward.pool`."""
        images = self._data.images
        assert isinstance(images, StreamedImages), "only streamed images have a pool"
        for crops in images.pool(first, size, self._live.side):
            turned = (crops.rot90(turns, (2, 3)) for turns in pairs.rotations)
            outputs = [self._live.outputs(images.scaled(views), parts).parts() for views in turned]
            yield {part: torch.stack([cast("Tensor", each[part]).cpu() for each in outputs]) for part in parts}


class Reader(abc.ABC):
    """Teacher outputs for one plan's views of the batches of one seed.

    What is done for a group of images has two halves: ``inputs`` looks things up on the host, ``outputs`` works on the
    device alone, so that it can be part of a CUDA graph.
    """

    @abc.abstractmethod
    def inputs(self, group: Group) -> dict[str, Tensor]:
        """Tensors on the device that ``outputs`` needs besides the images, by names of its own."""

    @abc.abstractmethod
    def outputs(self, views: Views, inputs: Mapping[str, Tensor]) -> Outputs:
        """Outputs for a group's views."""


@final
class LiveReader(Reader):
    """Asks the live teacher."""

    def __init__(self, live: LiveTeacher, reads: frozenset[Part]) -> None:
        self._live, self._reads = live, reads

    def inputs(self, group: Group) -> dict[str, Tensor]:  # noqa: ARG002
        """Nothing."""
        return {}

    def outputs(self, views: Views, inputs: Mapping[str, Tensor]) -> Outputs:  # noqa: ARG002
        """Forward the views."""
        return self._live.outputs(views[self._live.side], self._reads)


@final
class _Rows:
    """Stored parts of the pairs of image and view that batches visit, read some steps at a time."""

    def __init__(
        self, read: Callable[[Pairs, Part], Tensor], parts: Collection[Part], batches: Batches, plan: ViewPlan
    ) -> None:
        self._read, self._parts, self._batches, self._plan = read, sorted(parts), batches, plan
        self._where = (0, -1)
        self._block: dict[str, Tensor] = {}

    def of(self, group: Group) -> dict[str, Tensor]:
        """Return the parts of a group's rows, on the device."""
        epoch, start = self._batches.epoch, group.step - group.step % _BLOCK
        if self._where != (epoch, start):
            steps = range(start, min(start + _BLOCK, self._batches.steps))
            pairs = self._batches.visits(steps, self._plan).numpy()
            self._block = {part: self._to_device(self._read(pairs, part)) for part in self._parts}
            self._where = (epoch, start)
        num_views = self._plan.num_views
        first = num_views * (group.first - start * self._batches.schedule.batch_size)
        rows = slice(first, first + num_views * len(group.index))
        return {part: values[rows] for part, values in self._block.items()}

    def _to_device(self, values: Tensor) -> Tensor:
        device = self._batches.data.device
        return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


@final
class CachedReader(Reader):
    """Reads a cache; logits that it does not store are computed from what it does."""

    def __init__(
        self, cache: TeacherCache, live: LiveTeacher, batches: Batches, plan: ViewPlan, reads: frozenset[Part]
    ) -> None:
        self._live, self._reads = live, reads
        net = live.teacher.net
        self._stored = stored_parts(reads, batches.data.images.numbering, net.widths)
        self._rows = _Rows(cache.read, self._stored, batches, plan)
        head = net.backbone.head()
        self._weight, self._bias = head.weight, head.bias

    def inputs(self, group: Group) -> dict[str, Tensor]:
        """Return the cached parts of a group's rows."""
        return self._rows.of(group)

    def outputs(self, views: Views, inputs: Mapping[str, Tensor]) -> Outputs:  # noqa: ARG002
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


@final
class FileReader(Reader):
    """Reads a file of logits: an image has the same ones, whatever view of it is seen."""

    def __init__(self, logits: Tensor, batches: Batches, plan: ViewPlan) -> None:
        numbering = batches.data.images.numbering

        def read(pairs: Pairs, _: Part) -> Tensor:
            return logits[numbering.split(torch.from_numpy(pairs))[0]]

        self._rows = _Rows(read, LOGITS, batches, plan)

    def inputs(self, group: Group) -> dict[str, Tensor]:
        """Return the logits of a group's images."""
        return self._rows.of(group)

    def outputs(self, views: Views, inputs: Mapping[str, Tensor]) -> Outputs:  # noqa: ARG002
        """Wrap what was read."""
        return only_logits(inputs["logits"], ABSENT_IN_FILE)


ABSENT_IN_FILE = "the teacher is a file of logits"
ABSENT_IN_ENSEMBLE = "the teacher is an ensemble, of which logits alone can be averaged"


def only_logits(logits: Tensor, reason: str) -> Outputs:
    """Return a teacher's outputs that are logits and nothing else; ``reason`` says why, where more is read."""
    return Outputs("teacher", logits=logits, absent=dict.fromkeys(PARTS - LOGITS, reason))


@final
class MeanReader(Reader):
    """Averages the logits of several teachers, in float32 at least."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = readers

    def inputs(self, group: Group) -> dict[str, Tensor]:
        """Return the inputs of all members, each named by the member's number."""
        return {
            f"{number} {name}": tensor
            for number, reader in enumerate(self._readers)
            for name, tensor in reader.inputs(group).items()
        }

    def outputs(self, views: Views, inputs: Mapping[str, Tensor]) -> Outputs:
        """Average what the members say."""
        outputs = []
        for number, reader in enumerate(self._readers):
            ours = f"{number} "
            named = {name.removeprefix(ours): tensor for name, tensor in inputs.items() if name.startswith(ours)}
            outputs.append(reader.outputs(views, named))
        return mean_logits(outputs)


def mean_logits(outputs: Sequence[Outputs]) -> Outputs:
    """Return the mean of several teachers' logits, as the outputs of one teacher."""
    logits = torch.stack([at_least_float32(each.logits) for each in outputs]).mean(0)
    return only_logits(logits, ABSENT_IN_ENSEMBLE)
