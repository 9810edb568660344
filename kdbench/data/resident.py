"""Images that stay on the device and are augmented there.

Legend: ``N`` training images, ``B`` images of a batch, ``V`` views of an image, ``H`` x ``W`` pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from kdbench.data.groups import Group, Layout
from kdbench.data.images import EpochViews, EvaluationImages, TrainingImages, resized
from kdbench.data.randaugment import strongly_augmented
from kdbench.data.views import Augmentation
from kdbench.method import ViewPlan
from kdbench.utils.device import forward_batch
from kdbench.utils.streams import generator

_CHUNK = 4096
"""Images that are augmented at once for a whole epoch; changes no value."""
_RESIZED = 256
"""Largest number of resized images that are forwarded at once: they may be large."""


@final
class ResidentImages(TrainingImages):
    """Images that live on the device and are augmented there by one gather.

    They are kept with their zero border, a pixel as one 32-bit word. In such an image every view is an affine walk
    (a first pixel, and steps down and to the right), so that the address of each pixel of a view is known.
    Takes ``4 * (H + 2 * pad) * (W + 2 * pad)`` bytes an image.

    Parameters
    ----------
    images
        ``(N, H, W, 3)``, uint8.
    augmentation
        Gives the view ids their meaning.
    device
        Where the images live.
    memory_format
        Of what `augment` returns; ``channels_last`` is the order in which the pixels lie and costs nothing.
    side
        That all views are resized to, in pixels; by default they are as large as the images.

    Raises
    ------
    ValueError
        For images of another type or shape.
    """

    def __init__(
        self,
        images: Tensor,
        augmentation: Augmentation,
        device: str | torch.device = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
        side: int | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"images must be uint8 (N, H, W, 3), not {images.dtype} {tuple(images.shape)}")
        num_images, height, width, _ = images.shape
        super().__init__(augmentation, (height, width), torch.device(device), memory_format)
        self.augmentation, self.side = augmentation, side
        pad, offsets = augmentation.pad, augmentation.num_offsets
        rows, columns = height + 2 * pad, width + 2 * pad
        self._area = rows * columns

        pixels = torch.zeros(num_images, rows, columns, 4, dtype=torch.uint8, device=device)
        pixels[:, pad : pad + height, pad : pad + width, :3] = images.to(device)
        self._pixels = pixels.view(torch.int32).flatten()

        # Turning commutes with padding, so the views are windows of eight versions of the padded image. Views that
        # a non-square image does not have point behind the last pixel: reading one is an IndexError.
        grid = torch.arange(self._area).view(rows, columns)
        first = torch.full((8, offsets, offsets), num_images * self._area)
        steps = torch.zeros(8, height, width, dtype=torch.int64)
        for version in range(8):
            if version % 2 == 0 or height == width:
                turned = torch.rot90(grid.flip(1) if version >= 4 else grid, version % 4)
                first[version] = turned[:offsets, :offsets]
                steps[version] = turned[:height, :width] - turned[0, 0]
        self._first = first.flatten().to(device)
        self._steps = steps.flatten(1).to(device)

    def __len__(self) -> int:
        return self._pixels.numel() // self._area

    def epoch(
        self,
        seed: int,
        epoch: int,
        order: Tensor,  # noqa: ARG002 - any image is at hand at any time
        layout: Layout,  # noqa: ARG002
        plans: Sequence[ViewPlan],
        sides: Collection[int] = (),  # noqa: ARG002 - each view is resized when it is made
    ) -> ResidentViews:
        """Draw the ids of the plans' views; make the strong ones, of all images."""
        return ResidentViews(self, seed, epoch, plans)

    def views(self, pairs: Tensor, side: int | None = None) -> Tensor:
        """Return views by their numbers ``(P,)``."""
        views = self.augment(*self.augmentation.split(pairs.to(self.device, non_blocking=True)))
        return resized(views, side or self.side)

    def augment(self, index: Tensor, view: Tensor) -> Tensor:
        """Return views of images as large as these, ``(V*B, 3, H, W)``, view-major. Never waits for the device.

        They are float32, in [0, 1].

        Parameters
        ----------
        index
            Positions of the images, int64 ``(B,)``.
        view
            Their view ids, int64 ``(V, B)``, or ``(B,)`` for one view.
        """
        version = view // self.augmentation.num_offsets**2
        start = index * self._area + self._first[view]
        pixels = self._pixels.take(start.unsqueeze(-1) + self._steps[version])
        return self.scaled(pixels.view(torch.uint8).view(-1, *self.size, 4)[..., :3].permute(0, 3, 1, 2))


@final
class ResidentViews(EpochViews):
    """The views of an epoch of resident images: ids, and strongly augmented images."""

    def __init__(self, images: ResidentImages, seed: int, epoch: int, plans: Sequence[ViewPlan]) -> None:
        self._images = images
        self._ids = {plan: images.augmentation.draw(seed, epoch, len(images), plan) for plan in plans}
        self._device_ids = {plan: ids.to(images.device, non_blocking=True) for plan, ids in self._ids.items()}
        num_strong = max((plan.num_strong for plan in plans), default=0)
        self._strong = [strong_views(seed, epoch, images, row) for row in range(num_strong)]

    def ids(self, plan: ViewPlan, index: Tensor) -> Tensor:
        """Return the ids of the views of some images."""
        return self._ids[plan][:, index]

    def look_up(self, group: Group, plan: ViewPlan, side: int | None = None) -> Tensor:  # noqa: ARG002
        """Return the ids ``(V, n)`` of a group's views that have one, on the device."""
        return self._device_ids[plan][:, group.index]

    def make(self, index: Tensor, source: Tensor, plan: ViewPlan, side: int | None = None) -> Tensor:
        """Make the views with the given ids ``(V, n)``, and the strong ones."""
        plain = self._images.augment(index, source)
        strong = [self._images.scaled(rows[index]) for rows in self._strong[: plan.num_strong]]
        return resized(torch.cat([plain, *strong]) if strong else plain, side or self._images.side)


def strong_views(seed: int, epoch: int, images: ResidentImages, row: int) -> Tensor:
    """Return one strongly augmented view of each image, uint8 ``(N, 3, H, W)``, by position in the training set.

    Each is mirrored or not and cropped on its own, and then augmented by :mod:`kdbench.data.randaugment`.
    """
    num_images, augmentation = len(images), images.augmentation
    draw = generator(seed, "strong", epoch, row)
    flip = torch.randint(2 if augmentation.flip else 1, (num_images,), generator=draw)
    dy, dx = torch.randint(augmentation.num_offsets, (2, num_images), generator=draw)
    ids = augmentation.view_id(flip, torch.zeros_like(flip), dy, dx).to(images.device)
    index = torch.arange(num_images, device=images.device)
    chunks = zip(index.split(_CHUNK), ids.split(_CHUNK), strict=True)
    pixels = torch.cat([images.augment(*chunk).mul_(255).round_().to(torch.uint8) for chunk in chunks])
    return strongly_augmented(pixels, draw)


@final
class ResidentEvaluation(EvaluationImages):
    """Test images ``(N, H, W, 3)``, uint8, where they are used; resized to a side, in pixels, where one is given."""

    def __init__(self, images: Tensor, device: torch.device, side: int | None = None) -> None:
        self._images, self._side = images.to(device), side

    def batches(self, first: int = 0, step: int = 1) -> Iterator[tuple[int, Tensor]]:
        """Return batches with the places of their first images."""
        size = forward_batch(self._images.device)
        size = min(size, _RESIZED) if self._side else size
        for place in range(first * size, len(self._images), step * size):
            pixels = self._images[place : place + size].permute(0, 3, 1, 2).float().div_(255)
            yield place, resized(pixels, self._side)
