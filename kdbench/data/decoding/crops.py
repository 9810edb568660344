"""Crops of large images: the random-resized crop of training, drawn by pure functions, and the test image's crop.

The law of the boxes is that of torchvision's ``RandomResizedCrop`` (Szegedy et al., arXiv 1409.4842); the numbers come
from a counter-based generator, so that a crop depends on its own stream alone: not on a worker, a batch or an order.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple, final

from kdbench.experiment.rule_groups import AugmentationRules, scaled_side
from kdbench.utils.streams import stream_seed

ATTEMPTS = 10
"""Boxes that are drawn until one lies within the image; after them comes the central crop."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CropRules:
    """How images of any size become square images of one size."""

    size: int
    """Side of the crop after it is resized, in pixels."""
    scale: tuple[float, float]
    """Range of a training crop's share of the image's area."""
    ratio: tuple[float, float]
    """Range of a training crop's width over its height."""
    interpolation: Literal["bilinear", "bicubic"]
    evaluation_size: int
    """Shorter side of a test image before its central crop, in pixels."""
    flip: bool
    """Whether half of the training crops are mirrored left-right."""

    @classmethod
    def of(cls, rules: AugmentationRules) -> CropRules:
        """Return the part of a protocol's rules that crops of image files follow."""
        values = {field.name: getattr(rules, field.name) for field in fields(cls)}
        assert None not in values.values(), "the protocol's crops are not resized"
        return cls(**values)

    def with_side(self, side: int) -> CropRules:
        """Return the rules that give the same boxes at another side, in pixels: of test images up to rounding."""
        sides = {"size": side, "evaluation_size": scaled_side(self.evaluation_size, side, self.size)}
        return replace(self, **sides)  # type: ignore[arg-type]


class Crop(NamedTuple):
    """A box within an image, in pixels, and whether what it holds is mirrored left-right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def plain_crop(rules: CropRules, size: tuple[int, int], index: int, crop: int) -> Crop:
    """Return the crop with a number ``crop`` of the training image at ``index``: equal in every run.

    Parameters
    ----------
    size
        Height and width of the image.
    """
    return _crop(rules, size, stream_seed(0, "crop-box", index, crop))


def strong_crop(rules: CropRules, size: tuple[int, int], seed: int, epoch: int, index: int, row: int) -> Crop:
    """Return the crop of a strongly augmented view, before its strong operations."""
    return _crop(rules, size, stream_seed(seed, "strong-box", epoch, index, row))


def _crop(rules: CropRules, size: tuple[int, int], key: int) -> Crop:
    numbers = _uniform(key)
    flip = next(numbers) < 0.5 and rules.flip
    return Crop(*random_box(size, rules.scale, rules.ratio, numbers), flip=flip)


def _uniform(key: int) -> Iterator[float]:
    """Return numbers in [0, 1): SHA-512 in counter mode, which is ready faster than a generator of NumPy's."""
    for counter in itertools.count():
        digest = hashlib.sha512(f"{key}/{counter}".encode()).digest()
        for number in struct.unpack(">8Q", digest):
            yield (number >> 11) * 2.0**-53


def random_box(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], uniform: Iterator[float]
) -> tuple[int, int, int, int]:
    """Return a box as torchvision draws it: top, left, height, width.

    Area and logarithm of the ratio are uniform, and so is the place. If no box fits in ten attempts, it is the largest
    central one whose ratio is allowed.

    Parameters
    ----------
    size
        Height and width of the image.
    uniform
        Numbers in [0, 1), four for each attempt: area, ratio, top, left.
    """
    height, width = size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(ATTEMPTS):
        share, log_ratio, down, across = (next(uniform) for _ in range(4))
        area = height * width * (scale[0] + share * (scale[1] - scale[0]))
        aspect = math.exp(low + log_ratio * (high - low))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = int(down * (height - box_height + 1)), int(across * (width - box_width + 1))
            return top, left, box_height, box_width
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        box_width = max(1, round(height * ratio[1]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def evaluation_sides(rules: CropRules, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a test image before its central crop, rounded as torchvision's ``Resize`` does."""
    height, width = size
    shorter, longer = min(size), max(size)
    other = int(rules.evaluation_size * longer / shorter)
    return (rules.evaluation_size, other) if height < width else (other, rules.evaluation_size)


def central_box(rules: CropRules, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return left, upper, right and lower edge of the central crop; outside the image where that is too small.

    They are those of torchvision's ``CenterCrop``, which pads an image that is too small first.
    """
    edges = []
    for length in reversed(size):
        missing = max(0, rules.size - length)
        before = missing // 2
        start = round((length + missing - rules.size) / 2.0) - before
        edges.append((start, start + rules.size))
    (left, right), (upper, lower) = edges
    return left, upper, right, lower
