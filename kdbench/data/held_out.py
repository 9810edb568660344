"""Training images that are held out for validation: a function of labels and numbers, the same for all seeds.

An image keeps the number that it has in the whole training set, whether others are held out or not: its views, and what
a teacher says of them, are the same. Legend: ``N`` images of the training set.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Self, final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class Division:
    """The training set, divided into images that are trained on and images that are held out."""

    trained: Tensor
    """Numbers of the images that are trained on, int64, ascending, on the CPU."""
    held_out: Tensor
    """Numbers of the others."""

    @classmethod
    def of(cls, labels: Tensor, share: float) -> Self:
        """Hold out a share of the images of each class: those whose numbers have the lowest hashes.

        Parameters
        ----------
        labels
            ``(N,)``, on the CPU.
        share
            In [0, 1). Of a class of n images, ``share * n`` are held out, rounded, and n - 1 at most.
        """
        is_held_out = torch.zeros(len(labels), dtype=torch.bool)
        if share:
            for members in _by_class(labels):
                is_held_out[sorted(members.tolist(), key=_hash)[: _number(len(members), share)]] = True
        return cls((~is_held_out).nonzero().flatten(), is_held_out.nonzero().flatten())

    @cached_property
    def places(self) -> Tensor:
        """Place of each image among those that are trained on, int64 ``(N,)``; -1 for one that is held out."""
        places = torch.full((len(self.trained) + len(self.held_out),), -1)
        places[self.trained] = torch.arange(len(self.trained))
        return places


def num_trained(labels: Tensor, share: float) -> int:
    """Return the number of images that a division trains on, without making it."""
    sizes: list[int] = labels.bincount().tolist()
    return len(labels) - sum(_number(size, share) for size in sizes if size)


def _number(size: int, share: float) -> int:
    """Return how many images of a class of this size are held out."""
    return min(round(share * size), size - 1)


def _by_class(labels: Tensor) -> list[Tensor]:
    """Return the numbers of the images of each class."""
    order = labels.argsort(stable=True)
    return [members for members in order.split(labels.bincount().tolist()) if len(members)]


def _hash(number: int) -> bytes:
    return hashlib.sha256(f"validation {number}".encode()).digest()
