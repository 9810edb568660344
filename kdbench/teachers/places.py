"""Deals pairs of image and view out to batches in which a pair's place does not depend on which other pairs there are.

The last bits of a network's outputs can change with the size of a batch, and with the place that an image has in it:
libraries choose their kernels by the size, and the edge of a batch may be left to another kernel than its middle. They
do not change with what the other images are. So every batch has one size, and an image has one place in it: its
position in the training set, modulo the size. Places that stay free are filled up, and what comes out of them is
dropped. Outputs that are computed in this way depend on the pair alone, for one machine and one number of threads.

Legend: ``P`` pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdbench.net import Part
from kdbench.teachers.segments import Pairs

Forward = Callable[[Tensor], Mapping[Part, Tensor]]
"""Pairs ``(B,)`` on the CPU to parts ``(B, width)``."""


@final
class PlacedBatches:
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

    def begun(self, done: int) -> int:
        """Number of the batch that comes next when ``done`` pairs are done; batches count from 0."""
        return int(np.searchsorted(self._ends, done, side="right"))

    def outputs(self, number: int, forward: Forward, parts: Iterable[Part]) -> dict[Part, Tensor]:
        """Forward a batch; return the outputs of its pairs, in the order of ``order``, on the CPU."""
        start = int(self._ends[number - 1]) if number else 0
        rows = self.order[start : self._ends[number]]
        places = self._places[rows]
        batch = np.full(self._size, self._pairs[rows[0]])
        batch[places] = self._pairs[rows]
        values, taken = forward(torch.from_numpy(batch)), torch.from_numpy(places)
        return {part: values[part].cpu()[taken] for part in parts}
