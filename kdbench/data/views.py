"""Views: which augmented version of which image is seen when.

A view is an integer id for (flip, quarter turns, dy, dx): the image is mirrored left-right or not, THEN turned
counter-clockwise by quarter turns, THEN padded with ``pad`` zeros on each side and cropped back to its size with
the upper left corner at (dy, dx). `order` and `ViewIds.draw` are pure functions of the seed and the epoch, so every
method sees the same batches, and all views are known before training.

Legend: ``N`` training images, ``B`` images of a batch, ``V`` views of an image, ``H`` x ``W`` pixels.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from kdbench.errors import UserError
from kdbench.experiment.rule_groups import AugmentationRules
from kdbench.method import ViewPlan
from kdbench.utils.streams import generator


class ViewIds(abc.ABC):
    """A numbering of the views that an image can have."""

    @property
    @abc.abstractmethod
    def num_views(self) -> int:
        """Number of view ids of an image."""

    @property
    @abc.abstractmethod
    def num_crops(self) -> int:
        """Number of crops among which each draw chooses."""

    @property
    def num_flips(self) -> int:
        """Number of mirrored versions of a crop that have an id of their own."""
        return 1

    @property
    def rows_share_a_crop(self) -> bool:
        """Whether all rows of an image are rotations of one crop."""
        return False

    @property
    def is_small(self) -> bool:
        """Whether all views of all images can be enumerated."""
        return self.num_views <= 2**12

    @property
    def repeats(self) -> bool:
        """Whether epochs come back to the same views, so that what a teacher says of them is worth keeping."""
        return True

    @abc.abstractmethod
    def draw(self, seed: int, epoch: int, num_images: int, plan: ViewPlan) -> Tensor:
        """Return the ids of an epoch's views that have one, int64 ``(V, N)``, by position in the training set.

        Row 0 is the plain view and equal for all plans. Row v is turned by ``plan.quarter_turns[v]``; a plan that
        continues another one repeats its rows.
        """

    def pair(self, index: Tensor, view: Tensor) -> Tensor:
        """Return one number for each image and view: positions ``(B,)`` and ids ``(V, B)`` to int64 ``(V, B)``."""
        return index * self.num_views + view

    def split(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Return the positions and view ids of the numbers that `pair` gives."""
        return pair // self.num_views, pair % self.num_views


@final
@dataclass(frozen=True, slots=True)
class Augmentation(ViewIds):
    """The random flip and crop of a protocol, and the numbering of the views that it and the turns can make."""

    pad: int
    """Zeros added on each side before the crop, in pixels; 0 for no crop."""
    flip: bool
    """Whether half of the images are mirrored left-right."""

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad must be 0 or more pixels, not {self.pad}")

    @classmethod
    def of(cls, rules: AugmentationRules) -> Augmentation:
        """Return the augmentation that a protocol's rules describe."""
        assert rules.pad is not None, "the rules are those of resized crops"
        return cls(pad=rules.pad, flip=rules.flip)

    @property
    def num_offsets(self) -> int:
        """Number of crop positions along one side, ``2 * pad + 1``."""
        return 2 * self.pad + 1

    @property
    def num_crops(self) -> int:
        """Number of crop positions."""
        return self.num_offsets**2

    @property
    def num_flips(self) -> int:
        """Two, where half of the images are mirrored."""
        return 2 if self.flip else 1

    @property
    def num_views(self) -> int:
        """Number of view ids: 2 flips x 4 turns x crop positions, whatever ``flip`` says."""
        return 8 * self.num_offsets**2

    @property
    def identity(self) -> int:
        """Id of the view that is the image itself."""
        return self.pad * self.num_offsets + self.pad

    def view_id(self, flip: Tensor, quarter_turns: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        """Return the ids of views given by their parts: integer tensors of shapes that broadcast."""
        return ((flip * 4 + quarter_turns) * self.num_offsets + dy) * self.num_offsets + dx

    def draw(self, seed: int, epoch: int, num_images: int, plan: ViewPlan) -> Tensor:
        """Return the ids of an epoch's views: the rows of an image share its flip; each has a crop of its own."""
        if self.flip:
            flip = torch.randint(2, (num_images,), generator=generator(seed, "flip", epoch))
        else:
            flip = torch.zeros(num_images, dtype=torch.int64)
        crop = torch.stack(
            [
                torch.randint(self.num_offsets, (2, num_images), generator=generator(seed, "crop", epoch, row))
                for row in range(len(plan.quarter_turns))
            ]
        )
        turns = torch.tensor(plan.quarter_turns).unsqueeze(1)
        return self.view_id(flip, turns, crop[:, 0], crop[:, 1])

    def parts(self, view: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return flip, quarter turns, dy and dx of view ids, each of the shape of ``view``."""
        rows, dx = view // self.num_offsets, view % self.num_offsets
        turned, dy = rows // self.num_offsets, rows % self.num_offsets
        return turned // 4, turned % 4, dy, dx


@final
@dataclass(frozen=True, slots=True)
class CropIds(ViewIds):
    """The numbering of resized crops: ``rotation * num_crops + crop``, the rotation in counter-clockwise quarter turns.

    A crop number is drawn for each seed, epoch and image, and shared by all rows of the image: they are rotations of
    one crop. Box and flip are functions of image and crop number, see :mod:`kdbench.data.decoding.crops`.
    """

    pool: int | None = None
    """Crops of an image, shared by all seeds and epochs; None for practically a new one each time."""

    @property
    def rows_share_a_crop(self) -> bool:
        """True."""
        return True

    @property
    def repeats(self) -> bool:
        """Whether there is a pool."""
        return self.pool is not None

    @property
    def num_crops(self) -> int:
        """Number of crops of an image."""
        return self.pool or 2**36

    @property
    def num_views(self) -> int:
        """Number of view ids: four rotations of each crop."""
        return 4 * self.num_crops

    def draw(self, seed: int, epoch: int, num_images: int, plan: ViewPlan) -> Tensor:
        """Return the ids of an epoch's views."""
        return self.of_crops(self.draw_crops(seed, epoch, num_images), plan)

    def draw_crops(self, seed: int, epoch: int, num_images: int) -> Tensor:
        """Return the crop number of each image in an epoch, int64 ``(N,)``."""
        return torch.randint(self.num_crops, (num_images,), generator=generator(seed, "resized-crop", epoch))

    def of_crops(self, crops: Tensor, plan: ViewPlan) -> Tensor:
        """Return the ids ``(V, B)`` of a plan's rotations of crops ``(B,)``."""
        return torch.tensor(plan.quarter_turns).unsqueeze(1) * self.num_crops + crops


def numbering_of(rules: AugmentationRules) -> ViewIds:
    """Return the numbering of the views that a protocol's rules describe."""
    return Augmentation.of(rules) if rules.crop == "pad" else CropIds(rules.pool)


def check_plan(plan: ViewPlan, image_size: tuple[int, int]) -> None:
    """Raise ``UserError`` for a plan with a quarter turn where images ``(height, width)`` are not square."""
    height, width = image_size
    odd = sorted(turns for turns in plan.quarter_turns if turns % 2)
    if odd and height != width:
        raise UserError(
            f"images of {height} x {width} pixels cannot be turned by {odd[0]} quarter turns: "
            "a method that rotates needs square images"
        )


def order(seed: int, epoch: int, num_images: int) -> Tensor:
    """Return the order in which an epoch visits the training images: a permutation, int64 ``(N,)``."""
    return torch.randperm(num_images, generator=generator(seed, "order", epoch))
