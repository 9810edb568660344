"""Mean and standard deviation of a data set's pixels, for protocols whose normalisation is measured.

Legend: ``N`` images of ``H`` x ``W`` pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kdbench.data.images import Normalisation
from kdbench.errors import UserError

Counts = npt.NDArray[np.int64]
"""How many pixels of each channel have each value: ``(3, 256)``."""
Moments = npt.NDArray[np.float64]
"""Mean of the values, and of their squares, of each channel, with values in [0, 1]: ``(2, 3)``."""
_CHUNK = 1024
"""Images that are counted in one go."""
_LEAST = 1e-6
"""Standard deviation below which all values of a channel are the same, but for rounding."""


def count_values(images: npt.NDArray[np.uint8]) -> Counts:
    """Count the values of each channel of images ``(N, H, W, 3)``."""
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        counts += [np.bincount(part[..., channel].ravel(), minlength=256) for channel in range(3)]
    return counts


def moments(counts: Counts) -> Moments:
    """Return the mean of the values and of their squares; the sums are of integers, and exact."""
    values = np.arange(256)
    number = counts.sum(1)
    return np.stack([counts @ values / (255 * number), counts @ values**2 / (255**2 * number)])


def normalisation(where: str, parts: Sequence[Moments]) -> Normalisation:
    """Return mean and standard deviation of the pixels of parts that count alike, whatever their size.

    The sums are rounded once, so the order of the parts does not matter.

    Raises
    ------
    UserError
        A channel has one value only; the message begins with ``where``.
    """
    means, squares = (
        [math.fsum(part[row, channel] for part in parts) / len(parts) for channel in range(3)] for row in range(2)
    )
    deviations = [math.sqrt(max(0.0, square - mean**2)) for mean, square in zip(means, squares, strict=True)]
    if min(deviations) < _LEAST:
        raise UserError(
            f"{where}: all pixels of channel {deviations.index(min(deviations))} of the training images have one "
            "value, so their standard deviation cannot be measured: give std in the protocol"
        )
    return tuple(means), tuple(deviations)
