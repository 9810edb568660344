"""Batches of decoded images, made ahead of their use by processes that live on from one epoch to the next.

What a batch holds is a function of its `Item` alone: it is equal with any number of processes. Those processes leave
signals to their parent, and end with it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, final

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info

from kdbench.data.decoding.decode import Decoder, Pixels
from kdbench.data.decoding.processes import PREFETCH, Processes, too_small
from kdbench.data.images import Unread
from kdbench.errors import UserError
from kdbench.utils.resources import SHARED_MEMORY, free_shared_memory
from kdbench.utils.text import size

ITEM: Final = 16
"""Images that a process decodes at a time where no batch is waited for."""
_IN_USE: Final = 2
"""Batches that the caller holds at once: the one in use, and the one before it."""


def shared_memory(num_workers: int, batch: int) -> int:
    """Return the bytes of shared memory that batches of so many bytes take; none without processes."""
    return (PREFETCH * num_workers + _IN_USE) * batch if num_workers else 0


@final
@dataclass(frozen=True, slots=True)
class Item:
    """A batch of training images, by numbers alone."""

    index: Tensor
    """Positions in the listing, int64 ``(B,)``; an image that comes several times in a row is decoded once."""
    crops: Tensor
    """Number of each image's crop, int64 ``(B,)``."""
    seed: int = 0
    """Of the strong views."""
    epoch: int = 0
    """Of the strong views."""
    num_strong: int = 0
    """Strongly augmented views beside the crop."""
    sides: tuple[int, ...] = ()
    """Other sides at which all views are made as well, of the same decoded images."""


@final
@dataclass(frozen=True, slots=True)
class EvaluationItem:
    """A batch of test images."""

    index: Tensor
    """Positions in the listing, int64 ``(B,)``."""


@final
class PoolItems(Sequence[Item]):
    """All crops of a pool from one on, in pieces of whole images; a piece is made when it is looked at."""

    def __init__(self, num_images: int, num_crops: int, first: int, sides: tuple[int, ...]) -> None:
        self._first, self._end, self._num_crops, self._sides = first, num_images * num_crops, num_crops, sides
        self._size = max(1, ITEM // num_crops) * num_crops
        self._skipped = first // self._size

    def __len__(self) -> int:
        return math.ceil(self._end / self._size) - self._skipped

    def __getitem__(self, place: int) -> Item:  # type: ignore[override]
        """Return one piece; several are never wanted at once."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        start = (self._skipped + place) * self._size
        numbers = torch.arange(max(start, self._first), min(start + self._size, self._end))
        return Item(numbers // self._num_crops, numbers % self._num_crops, sides=self._sides)


def batch_shape(item: Item | EvaluationItem, side: int) -> tuple[int, ...]:
    """Return the shape of an item's batch; one of several sides is flat, see `parts_of`."""
    return _Job.of(item).shape(side)


def parts_of(batch: Tensor, num_views: int, num_images: int, sides: Sequence[int]) -> list[Tensor]:
    """Return the views ``(num_views, num_images, 3, S, S)`` of each side that lie in a flat batch one after another."""
    shapes = [(num_views, num_images, 3, side, side) for side in sides]
    pieces = batch.split([math.prod(shape) for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


class _Job(NamedTuple):
    """An item as plain numbers, since tensors would go to a worker through shared memory."""

    images: list[int]
    crops: list[int] | None
    seed: int = 0
    epoch: int = 0
    num_strong: int = 0
    sides: tuple[int, ...] = ()

    @classmethod
    def of(cls, item: Item | EvaluationItem) -> _Job:
        if isinstance(item, EvaluationItem):
            return cls(item.index.tolist(), None)
        return cls(item.index.tolist(), item.crops.tolist(), item.seed, item.epoch, item.num_strong, item.sides)

    def shape(self, side: int) -> tuple[int, ...]:
        shapes = [(len(self.images), 3, each, each) for each in (side, *self.sides)]
        if self.sides:
            return ((1 + self.num_strong) * sum(map(math.prod, shapes)),)
        return shapes[0] if self.crops is None else (1 + self.num_strong, *shapes[0])


@final
class ImageLoader:
    """Make batches of a decoder's images, in the order of items, with processes or, with 0 of them, in this one.

    Processes start with the first batches. Use it from one thread at a time.
    """

    def __init__(self, decoder: Decoder, num_workers: int, *, pin: bool = False) -> None:
        self._num_workers, self._side = num_workers, decoder.rules.size
        self._jobs = _Jobs()
        self.processes = Processes(_Batches(decoder), self._jobs, num_workers, pin=pin)
        self._largest = self._call = 0

    def batches(self, items: Sequence[Item | EvaluationItem]) -> Iterator[Tensor]:
        """Begin to make batches, and return them in the order of their items; an earlier call's are given up.

        A batch is uint8: ``(1 + R, B, 3, S, S)`` of an `Item`, the crops and then ``R`` strong views; ``(B, 3, S, S)``
        of an `EvaluationItem`. That of an item with other sides is flat, see `parts_of`.

        Raises
        ------
        UserError
            Shared memory is too small, also later from the iterator, as ``Unread``; and from the iterator: a file is no
            image that can be used.
        OSError
            From the iterator: a file cannot be read, or a process was ended from outside.
        """
        if len(items):
            first = items[0]
            plans = (1 + first.num_strong, first.sides) if isinstance(first, Item) else ()
            self.check_shared_memory(len(first.index), *plans)
        self._jobs.items = items
        self._call += 1
        return self._results(self.processes.results(), self._call)

    def check_shared_memory(self, num_images: int, num_views: int = 1, sides: Collection[int] = ()) -> None:
        """Raise ``Unread`` if batches of so many images do not fit into the system's shared memory."""
        batch = num_images * num_views * 3 * sum(side**2 for side in (self._side, *sides))
        free = free_shared_memory()
        if not self._num_workers or batch <= self._largest or free is None:
            return
        needed = shared_memory(self._num_workers, batch)
        if free < needed:
            fewer = (free // batch - _IN_USE) // PREFETCH
            raise Unread(
                f"{self._num_workers} workers need {size(needed)} of {SHARED_MEMORY} for batches of {size(batch)}, and "
                f"{size(free)} are free: type --workers {max(0, fewer)}, or give the job or container more (--shm-size "
                "of docker)"
            )
        self._largest = batch

    def close(self) -> None:
        """End the processes; a later call of `batches` starts new ones."""
        self.processes.close()
        self._call += 1

    def _results(self, results: Iterator[Tensor | Exception], call: int) -> Iterator[Tensor]:
        while True:
            assert call == self._call, "these batches were given up for those of a later call"
            result = next(results, None)
            if result is None:
                return
            if isinstance(result, Exception):
                raise result
            yield result


class _Jobs(Sampler[_Job]):
    """The jobs of the current call, in order."""

    def __init__(self) -> None:
        self.items: Sequence[Item | EvaluationItem] = ()

    def __iter__(self) -> Iterator[_Job]:
        return map(_Job.of, self.items)

    def __len__(self) -> int:
        return len(self.items)


class _Batches(Dataset["Tensor | Exception"]):
    """Batches by their jobs; what a user or a disk has caused comes back as a value, without a traceback."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def __getitem__(self, job: _Job) -> Tensor | Exception:
        try:
            batch = _empty(job.shape(self._decoder.rules.size))
            self._fill(batch.numpy(), job)  # NumPy moves channels to the front five times as fast as PyTorch
        except Unread as error:
            return Unread(str(error))
        except UserError as error:
            return UserError(str(error))
        except OSError as error:
            return OSError(error.errno, error.strerror, error.filename)
        return batch

    def _fill(self, batch: Pixels, job: _Job) -> None:
        decoder = self._decoder
        if job.crops is None:
            for place, index in enumerate(job.images):
                batch[place] = decoder.test(decoder.image(index))
            return
        sides = (decoder.rules.size, *job.sides)
        parts = [batch]
        if job.sides:
            tensors = parts_of(torch.from_numpy(batch), 1 + job.num_strong, len(job.images), sides)
            parts = [tensor.numpy() for tensor in tensors]
        decoded, image = -1, None
        for place, (index, crop) in enumerate(zip(job.images, job.crops, strict=True)):
            if image is None or index != decoded:
                decoded, image = index, decoder.image(index)
            for side, part in zip(sides, parts, strict=True):
                part[0, place] = decoder.plain(image, index, crop, side)
                for row in range(job.num_strong):
                    part[1 + row, place] = decoder.strong(image, job.seed, job.epoch, index, row, side)


def _empty(shape: tuple[int, ...]) -> Tensor:
    """Return a batch to be filled: in shared memory in a worker, so that it is not copied, and failing is an error."""
    batch = torch.empty(shape, dtype=torch.uint8)
    worker = get_worker_info()
    if worker is not None:
        try:
            batch.share_memory_()
        except RuntimeError as error:
            if "shared memory" not in str(error):
                raise
            raise Unread(too_small(worker.num_workers)) from None
    return batch
