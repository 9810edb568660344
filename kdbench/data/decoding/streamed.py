"""Images that are decoded while training: all views of an image come from one decode, made ahead of their use.

Legend: ``N`` training images, ``n`` images of a group, ``S`` side of a crop, ``R`` strong views.
"""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from kdbench.data.decoding.crops import CropRules
from kdbench.data.decoding.decode import Decoder
from kdbench.data.decoding.loader import ITEM, EvaluationItem, ImageLoader, Item, PoolItems, parts_of
from kdbench.data.decoding.measured import measured
from kdbench.data.files.listing import ImageFiles, Listing
from kdbench.data.files.names import Report
from kdbench.data.groups import Group, Layout
from kdbench.data.images import (
    Dataset,
    DataShape,
    EpochViews,
    EvaluationImages,
    Normalisation,
    TrainingImages,
    Unread,
)
from kdbench.data.views import CropIds
from kdbench.experiment.protocol import Protocol
from kdbench.experiment.rule_groups import AugmentationRules
from kdbench.method import PLAIN, ViewPlan
from kdbench.utils.device import memory_format
from kdbench.utils.resources import owned_cpus
from kdbench.utils.text import one_line

_EVALUATED = 64
"""Images of a forward pass in evaluation: they are large, and many batches wait in shared memory."""


class Loader(typing.Protocol):
    """Makes batches, ahead of their use."""

    def batches(self, items: Sequence[Item | EvaluationItem]) -> Iterator[Tensor]:
        """Return the batches of items in their order; those of an earlier call are given up."""

    def check_shared_memory(self, num_images: int, num_views: int = 1, sides: Collection[int] = ()) -> None:
        """Raise ``Unread`` if batches of so many images cannot be handed over."""

    def close(self) -> None:
        """End what makes them; later calls begin it again."""


@final
class StreamedDataset(Dataset):
    """Image files, and the rules by which they become square images of one size."""

    def __init__(
        self,
        files: ImageFiles,
        rules: AugmentationRules | CropRules,
        num_workers: int | None = None,
        report: Report = lambda _: None,
    ) -> None:
        self.name, self.num_classes, self.class_names = files.name, files.num_classes, files.class_names
        self.train_labels, self.test_labels = (torch.from_numpy(part.labels) for part in (files.train, files.test))
        self.unused: tuple[str, ...] = ()
        self.files, self._rules = files, rules if isinstance(rules, CropRules) else CropRules.of(rules)
        self.num_workers = owned_cpus() if num_workers is None else num_workers
        """Processes that decode."""
        self._report = report

    @property
    def shape(self) -> DataShape:
        """Number of images, and the size of their crops."""
        return DataShape(len(self.files.train), (self._rules.size, self._rules.size), self.num_classes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of class names, paths, sizes and labels: 64 hexadecimal digits."""
        return self.files.fingerprint

    def with_side(self, side: int) -> StreamedDataset:
        """Return the same files, whose boxes are resized to another side."""
        return StreamedDataset(self.files, self._rules.with_side(side), self.num_workers, self._report)

    @cached_property
    def measured(self) -> Normalisation:
        """Mean and standard deviation of the training images; see :mod:`kdbench.data.decoding.measured`."""
        with _named():
            return measured(self.files, self._report)

    def training(self, protocol: Protocol, device: torch.device) -> StreamedImages:
        """Return the training images for a device.

        Raises
        ------
        Unread
            Shared memory is too small for their groups.
        """
        images = StreamedImages(self._loader(self.files.train, device), self.shape, protocol, device)
        images.check(PLAIN)
        return images

    def evaluation(self, device: torch.device) -> StreamedEvaluation:
        """Return the test images for a device; it raises as `training` does."""
        return StreamedEvaluation(self._loader(self.files.test, device), torch.arange(len(self.files.test)), device)

    def unaugmented(self, index: Tensor, device: torch.device) -> StreamedEvaluation:
        """Return some of the training images, resized and cut as test images are; it raises as `training` does."""
        return StreamedEvaluation(self._loader(self.files.train, device), index, device)

    def _loader(self, listing: Listing, device: torch.device) -> ImageLoader:
        return ImageLoader(Decoder(listing, self._rules), self.num_workers, pin=device.type == "cuda")


@final
class StreamedImages(TrainingImages):
    """Training images that processes decode; rotations are made on the device, from one crop an image."""

    def __init__(self, loader: Loader, shape: DataShape, protocol: Protocol, device: torch.device) -> None:
        self.crops = CropIds(protocol.rules.augmentation.pool)
        super().__init__(self.crops, shape.image_size, device, memory_format(device, protocol.precision))
        self._images_together = min(protocol.rules.schedule.images_together, shape.num_images)
        self.loader = loader
        self.reading: StreamedViews | None = None
        """The views of the epoch whose batches the loader makes; it makes one sequence at a time."""
        self._num_images = shape.num_images

    def __len__(self) -> int:
        return self._num_images

    def check(self, plan: ViewPlan, sides: Collection[int] = ()) -> None:
        """Raise ``Unread`` where shared memory is too small for groups with all that a plan decodes."""
        super().check(plan)
        self.loader.check_shared_memory(self._images_together, 1 + plan.num_strong, sides)

    def close(self) -> None:
        """End the processes that decode."""
        self.loader.close()

    def epoch(
        self,
        seed: int,
        epoch: int,
        order: Tensor,
        layout: Layout,
        plans: Sequence[ViewPlan],
        sides: Collection[int] = (),
    ) -> StreamedViews:
        """Draw the crops; files are read when the first views are looked up."""
        return StreamedViews(self, seed, epoch, order, layout, plans, tuple(sorted(sides)))

    def views(self, pairs: Tensor, side: int | None = None) -> Tensor:
        """Return views by their numbers ``(P,)``; images that stand side by side are decoded once."""
        index, view = self.numbering.split(pairs.cpu())
        crop, turns = view % self.crops.num_crops, view // self.crops.num_crops
        self.reading = None
        sides = () if side is None else (side,)
        items = [Item(*part, sides=sides) for part in zip(index.split(ITEM), crop.split(ITEM), strict=True)]
        batches = zip(items, self.loader.batches(items), strict=True)
        pixels = torch.cat([self._crops(item, batch) for item, batch in batches]).to(self.device)
        for number in turns.unique().tolist():
            rows = (turns == number).nonzero().flatten().to(self.device)
            pixels[rows] = pixels[rows].rot90(number, (2, 3))
        return self.scaled(pixels)

    def parts(self, item: Item, batch: Tensor) -> dict[int | None, Tensor]:
        """Return the views ``(1 + R, B, 3, S, S)`` of an item's batch by their side; None is that of the students."""
        if not item.sides:
            return {None: batch}
        parts = parts_of(batch, 1 + item.num_strong, len(item.index), (self.size[0], *item.sides))
        return dict(zip((None, *item.sides), parts, strict=True))

    def _crops(self, item: Item, batch: Tensor) -> Tensor:
        """Return the crops at the last side of an item."""
        return self.parts(item, batch)[item.sides[-1] if item.sides else None][0]

    def pool(self, first: int, size: int, side: int | None = None) -> Iterator[Tensor]:
        """Return the crops of the pool from one on, image after image: uint8 ``(size, 3, S, S)`` on the device.

        Crop ``p`` of an image has the number ``image * num_crops + p``. Each image is decoded once. The last batch is
        filled up with its first crop.
        """
        self.reading = None
        items = PoolItems(len(self), self.crops.num_crops, first, () if side is None else (side,))
        batches = self.loader.batches(items)
        sides = self.size if side is None else (side, side)
        kept = torch.empty(0, 3, *sides, dtype=torch.uint8, device=self.device)
        for item in items:
            with _named():
                crops = self._crops(item, next(batches)).to(self.device, non_blocking=True)
            ends = tuple(range(size, len(kept) + len(crops) + 1, size))
            *whole, kept = torch.cat([kept, crops]).tensor_split(ends)
            yield from whole
        if len(kept):
            yield torch.cat([kept, kept[:1].expand(size - len(kept), -1, -1, -1)])


@final
class StreamedViews(EpochViews):
    """The views of an epoch of streamed images; groups are read in their order, from any one on."""

    def __init__(
        self,
        images: StreamedImages,
        seed: int,
        epoch: int,
        order: Tensor,
        layout: Layout,
        plans: Sequence[ViewPlan],
        sides: tuple[int, ...] = (),
    ) -> None:
        self._images, self._order, self._layout, self._sides = images, order, layout, sides
        self._crops = images.crops.draw_crops(seed, epoch, len(images))
        self._strong = seed, epoch, max((plan.num_strong for plan in plans), default=0)
        self._batches: Iterator[tuple[Item, Tensor]] = iter(())
        self._current: tuple[int, dict[int | None, Tensor] | Exception] = (-2, {})

    def ids(self, plan: ViewPlan, index: Tensor) -> Tensor:
        """Return the ids of the views of some images."""
        return self._images.crops.of_crops(self._crops[index], plan)

    def look_up(self, group: Group, plan: ViewPlan, side: int | None = None) -> Tensor:
        """Return a group's crops and the plan's strong views, uint8 ``(1 + R, n, 3, S, S)`` on the device.

        Raises
        ------
        Exception
            A file cannot be used; every plan of the group is told so.
        """
        own = self._layout.own
        place = group.step * len(own) + own.index(group.number)
        if place != self._current[0]:
            if place != self._current[0] + 1 or self._images.reading is not self:
                self._images.reading = self
                items = self._items(place)
                self._batches = zip(items, self._images.loader.batches(items), strict=True)
            try:
                with _named():
                    item, batch = next(self._batches)
                views = self._images.parts(item, batch.to(self._images.device, non_blocking=True))
            except Exception as error:
                self._current = place, error
                raise
            self._current = place, views
        if isinstance(self._current[1], Exception):
            raise self._current[1]
        return self._current[1][side][: 1 + plan.num_strong]

    def make(self, index: Tensor, source: Tensor, plan: ViewPlan, side: int | None = None) -> Tensor:  # noqa: ARG002
        """Rotate the crops, and put the strong views behind them."""
        turned = [source[0].rot90(turns, (2, 3)) for turns in plan.quarter_turns]
        views = torch.cat([*turned, *source[1 : 1 + plan.num_strong]])
        return self._images.scaled(views)

    def _items(self, begin: int) -> list[Item]:
        """Return this process's groups of the epoch from a place among them on."""
        own = self._layout.own
        bounds = [
            pair for step in range(self._layout.steps) for pair in self._layout.bounds(step)[own.start :: own.step]
        ]
        parts = [self._order[first:last] for first, last in bounds[begin:]]
        return [Item(index, self._crops[index], *self._strong, sides=self._sides) for index in parts]


@final
class StreamedEvaluation(EvaluationImages):
    """Images, by their numbers in a listing, that processes decode; the processes end with each pass."""

    def __init__(self, loader: Loader, index: Tensor, device: torch.device) -> None:
        self._loader, self._index, self._device = loader, index, device
        loader.check_shared_memory(min(_EVALUATED, len(index)))

    def batches(self, first: int = 0, step: int = 1) -> Iterator[tuple[int, Tensor]]:
        """Return batches with the places of their first images."""
        parts = self._index.split(_EVALUATED)[first::step]
        batches = iter(self._loader.batches([EvaluationItem(part) for part in parts]))
        try:
            for number in range(len(parts)):
                with _named():
                    batch = next(batches)
                yield (first + number * step) * _EVALUATED, batch.to(self._device, non_blocking=True).float().div_(255)
        finally:
            self._loader.close()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Say that a file, or the process that decodes it, is out of reach for now."""
    try:
        yield
    except OSError as error:
        reason = one_line(error)
        raise Unread(f"images cannot be read ({reason}): when they can, type the same command to resume") from None
