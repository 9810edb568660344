"""Deals pairs of image and view out to batches in which a pair's place does not depend on which other pairs there are.

The last bits of a network's outputs can change with the size of a batch, and with the place that an image has in it:
libraries choose their kernels by the size, and the edge of a batch may be left to another kernel than its middle. They
do not change with what the other images are. So every batch has one size, and an image has one place in it: its
position in the training set, modulo the size. Places that stay free are filled up, and what comes out of them is
dropped. Outputs that are computed in this way depend on the pair alone, for one machine and one number of threads.

Under a protocol with a pool it is a crop of an image that has one place: its position among all crops of all images,
image after image. So images are decoded one after the other, each once, whatever rotations are wanted.

Legend: ``P`` pairs, ``R`` rotations, ``B`` places of a batch.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdbench.net import Part
from kdbench.teachers.pairs import Pairs, PoolPairs

Forward = Callable[[Tensor], Mapping[Part, Tensor]]
"""Pairs ``(B,)`` on the CPU to parts ``(B, width)``."""
Outputs = dict[Part, Tensor]


class PoolForward(abc.ABC):
    """A teacher that can be queried for a whole pool, beside single pairs."""

    @abc.abstractmethod
    def __call__(self, pairs: Tensor) -> Mapping[Part, Tensor]:
        """Forward pairs ``(B,)``, as `Forward` does."""

    @abc.abstractmethod
    def pool(self, pairs: PoolPairs, first: int, size: int, parts: frozenset[Part]) -> Iterator[Mapping[Part, Tensor]]:
        """Forward all crops from a number on, image after image, in batches of a size: parts ``(R, B, width)``.

        Crop ``p`` of an image has the number ``image * num_crops + p``. Each image is decoded once. The last batch is
        filled up with any crops.
        """


class BuildBatches(abc.ABC):
    """The batches in which the outputs for a set of pairs are computed."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of batches."""

    @abc.abstractmethod
    def key(self) -> bytes:
        """Return bytes that the pairs and their order decide, and that no others have."""

    @abc.abstractmethod
    def begun(self, done: int) -> int:
        """Number of the batch that comes next when ``done`` pairs are done; batches count from 0."""

    @abc.abstractmethod
    def rows(self, first: int, last: int) -> npt.NDArray[np.int64]:
        """Rows in the set of those pairs that come at places ``first`` to ``last - 1`` in the order of the batches."""

    @abc.abstractmethod
    def stream(self, first: int, forward: Forward, parts: Iterable[Part]) -> Iterator[Outputs]:
        """Forward the batches from one on; yield the outputs of their pairs, in the order of `rows`, on the CPU."""


def batches_of(pairs: Pairs | PoolPairs, images: Callable[[Pairs], npt.NDArray[np.int64]], size: int) -> BuildBatches:
    """Return the batches for a set of pairs; ``images`` gives the positions of pairs' images in the training set."""
    return PoolBatches(pairs, size) if isinstance(pairs, PoolPairs) else PlacedBatches(pairs, images(pairs), size)


@final
class PlacedBatches(BuildBatches):
    """Batches of one size for a set of pairs. The first holds one pair of each place, the next one a second, and so on.

    Images have about equally many pairs, so few places stay free before the last batches.

    Parameters
    ----------
    pairs, images
        Pairs ``(P,)`` and the position of each pair's image in the training set, ``(P,)``.
    size
        Number of places in a batch.
    """

    def __init__(self, pairs: Pairs, images: npt.NDArray[np.int64], size: int) -> None:
        self._pairs, self._places, self._size = pairs, images % size, size
        by_place = np.argsort(self._places, kind="stable")
        counts = np.bincount(self._places, minlength=size)
        batches = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.order: npt.NDArray[np.int64] = by_place[np.argsort(batches, kind="stable")]
        """Rows of pairs in the order of the batches, int64 ``(P,)``."""
        self._ends = np.cumsum(np.bincount(batches))

    def __len__(self) -> int:
        return len(self._ends)

    def key(self) -> bytes:
        """Return all pairs and their order."""
        return self._pairs.tobytes() + self.order.tobytes()

    def begun(self, done: int) -> int:
        """Number of the batch that comes next when ``done`` pairs are done; batches count from 0."""
        return int(np.searchsorted(self._ends, done, side="right"))

    def rows(self, first: int, last: int) -> npt.NDArray[np.int64]:
        """Return a part of ``order``."""
        return self.order[first:last]

    def stream(self, first: int, forward: Forward, parts: Iterable[Part]) -> Iterator[Outputs]:
        """Forward one batch after the other."""
        return (self.outputs(number, forward, parts) for number in range(first, len(self)))

    def outputs(self, number: int, forward: Forward, parts: Iterable[Part]) -> Outputs:
        """Forward a batch; return the outputs of its pairs, in the order of ``order``, on the CPU."""
        start = int(self._ends[number - 1]) if number else 0
        rows = self.order[start : self._ends[number]]
        places = self._places[rows]
        batch = np.full(self._size, self._pairs[rows[0]])
        batch[places] = self._pairs[rows]
        values, taken = forward(torch.from_numpy(batch)), torch.from_numpy(places)
        return {part: values[part].cpu()[taken] for part in parts}


@final
class PoolBatches(BuildBatches):
    """Batches of one size for all crops of a pool, image after image; each is forwarded once in every rotation.

    Parameters
    ----------
    pairs
        All pairs.
    size
        Number of places in a batch.
    """

    def __init__(self, pairs: PoolPairs, size: int) -> None:
        self._pairs, self._size = pairs, size
        self._num_crops = pairs.num_images * pairs.num_crops

    def __len__(self) -> int:
        return math.ceil(self._num_crops / self._size)

    def key(self) -> bytes:
        """Return the size of the pool and of the batches."""
        return f"{self._pairs} in batches of {self._size}".encode()

    def begun(self, done: int) -> int:
        """Number of the batch that comes next when ``done`` pairs are done; only the last batch may be smaller."""
        return math.ceil(done / (self._size * len(self._pairs.rotations)))

    def rows(self, first: int, last: int) -> npt.NDArray[np.int64]:
        """Compute rows: those of a batch lie in the order of rotations, and each rotation's in that of the crops."""
        num_rotations, num_crops = len(self._pairs.rotations), self._pairs.num_crops
        batch, place = np.divmod(np.arange(first, last), self._size * num_rotations)
        rotation, place = np.divmod(place, np.minimum(self._size, self._num_crops - batch * self._size))
        image, crop = np.divmod(batch * self._size + place, num_crops)
        rows: npt.NDArray[np.int64] = (image * num_rotations + rotation) * num_crops + crop
        return rows

    def stream(self, first: int, forward: Forward, parts: Iterable[Part]) -> Iterator[Outputs]:
        """Forward all crops from the first of a batch on."""
        assert isinstance(forward, PoolForward), "the views of a pool are forwarded without their numbers"
        start = first * self._size
        for values in forward.pool(self._pairs, start, self._size, frozenset(parts)):
            num_left = self._num_crops - start
            yield {part: values[part][:, :num_left].flatten(0, 1) for part in parts}
            start += self._size
