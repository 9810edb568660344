"""Pure functions that several methods share: numerics that are safe in half precision, and pairs of feature maps.

Legend: ``B`` images, ``K`` classes, ``C`` channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "at_least_float32",
    "cross_entropy",
    "deepest_pairs",
    "inner_products",
    "mean_squared_error",
    "pooled_to",
    "to_smaller_size",
    "warmup_factor",
    "without_autocast",
]

_First = TypeVar("_First")
_Second = TypeVar("_Second")


def at_least_float32(value: Tensor) -> Tensor:
    """Return half-precision values as float32, and wider ones as they are; a loss is never computed in half precision.

    Parameters
    ----------
    value
        Floating-point tensor of any shape.

    Returns
    -------
    Tensor
        The same shape, float32 or float64.
    """
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context in which operations keep the precision of what they are given.

    The meta device, on which `kdbench grid plan` builds methods, has no autocast.
    """
    has_one = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if has_one else contextlib.nullcontext()


def inner_products(rows: Tensor, others: Tensor) -> Tensor:
    """Return all inner products of two sets of rows, at least in float32, under autocast too.

    Parameters
    ----------
    rows, others
        ``(..., A, D)`` and ``(..., C, D)``.

    Returns
    -------
    Tensor
        ``(..., A, C)``.
    """
    with without_autocast(rows.device):
        return at_least_float32(rows) @ at_least_float32(others).mT


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross entropy of each image in nats, without a reduction.

    The task's loss, with the smoothing that the protocol gives labels, is `Batch.cross_entropy`.

    Parameters
    ----------
    logits
        ``(B, K)``.
    targets
        Class numbers, ``(B,)``.
    label_smoothing
        Weight of the uniform distribution in the targets, in [0, 1).

    Returns
    -------
    Tensor
        ``(B,)``, at least float32.
    """
    return functional.cross_entropy(
        at_least_float32(logits), targets, reduction="none", label_smoothing=label_smoothing
    )


def mean_squared_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the mean squared difference of all elements, whose gradient has its channels last where ``ours`` has.

    That of PyTorch's own function is always contiguous. The backward pass of a batch norm in front of it, which then
    goes through two orders of memory at once, took ten times as long on a CPU.

    Parameters
    ----------
    ours, theirs
        Tensors of one shape, such as maps ``(B, C, H, W)``.

    Returns
    -------
    Tensor
        Scalar, at least float32.
    """
    sides = at_least_float32(ours), at_least_float32(theirs)
    if ours.ndim == 4 and not ours.is_contiguous() and ours.is_contiguous(memory_format=torch.channels_last):
        sides = sides[0].permute(0, 2, 3, 1), sides[1].permute(0, 2, 3, 1)
    return functional.mse_loss(*sides)


def warmup_factor(progress: float, warmup: float) -> float:
    """Return a linear ramp from 0 to 1 over the first part of training.

    Parameters
    ----------
    progress
        Epochs begun over all epochs, in (0, 1].
    warmup
        Length of the ramp as a fraction of training; 0 for none.
    """
    return 1.0 if progress >= warmup else progress / warmup


def deepest_pairs(first: Sequence[_First], second: Sequence[_Second]) -> list[tuple[_First, _Second]]:
    """Return the stages of two networks, or their shapes, in pairs from the deepest up, in order shallow to deep.

    Shallow stages of the network that has more of them are left out.
    """
    num = min(len(first), len(second))
    return list(zip(first[len(first) - num :], second[len(second) - num :], strict=True))


def to_smaller_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maps of two networks at one size, to which the larger ones are average-pooled.

    Parameters
    ----------
    first, second
        ``(B, C, H, W)`` and ``(B, C', H', W')``.

    Returns
    -------
    tuple[Tensor, Tensor]
        Both with ``min(H, H')`` rows and ``min(W, W')`` columns.
    """
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    return pooled_to(first, size), pooled_to(second, size)


def pooled_to(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps average-pooled to a size, as they are if they have it.

    Parameters
    ----------
    maps
        ``(B, C, H, W)``.
    size
        Rows and columns of the result.

    Returns
    -------
    Tensor
        ``(B, C, *size)``.
    """
    height, width = size
    (rows, more_rows), (columns, more_columns) = divmod(maps.shape[2], height), divmod(maps.shape[3], width)
    # On CUDA the gradient of adaptive pooling, but for the mean of the whole map, is not the same each time.
    if (height, width) == (1, 1):
        return functional.adaptive_avg_pool2d(maps, 1)
    if more_rows or more_columns:
        down, across = (_windows(of, to, maps) for of, to in zip(maps.shape[2:], size, strict=True))
        return torch.einsum("ir,bcrs,js->bcij", down, maps, across)
    return maps if (rows, columns) == (1, 1) else functional.avg_pool2d(maps, (rows, columns))


def _windows(of: int, to: int, like: Tensor) -> Tensor:
    """Return the weights ``(to, of)`` with which adaptive pooling averages rows; its windows may overlap."""
    window, row = (torch.arange(count, device=like.device) for count in (to, of))
    start, end = window * of // to, -(-(window + 1) * of // to)
    inside = (row >= start[:, None]) & (row < end[:, None])
    return inside.to(like.dtype) / (end - start)[:, None]
