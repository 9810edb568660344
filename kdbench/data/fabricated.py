"""Images without content, in the shape of a known data set, for measurements that need no data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from kdbench.data.datasets import SHAPES, ArrayDataset
from kdbench.data.decoding.loader import EvaluationItem, Item, batch_shape
from kdbench.data.decoding.streamed import StreamedEvaluation, StreamedImages
from kdbench.data.images import Dataset, DataShape, Normalisation
from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol


def fabricated(protocol: Protocol, given: Dataset | None = None) -> Dataset:
    """Return a data set as large as the protocol's: noise in memory, or batches of noise that take no time to make.

    Parameters
    ----------
    given
        Names the size in place of the protocol.

    Raises
    ------
    UserError
        The protocol is for images of the user's own, whose number is unknown.
    """
    shape = given.shape if given else shape_of(protocol)
    if shape is None:
        raise UserError(f"protocol {protocol.name} is for images of your own: name them with --data")
    if protocol.rules.augmentation.crop == "pad" and protocol.dataset in SHAPES:
        return random_dataset(protocol.dataset)
    return FabricatedDataset(protocol.dataset, shape)


def random_dataset(name: str) -> ArrayDataset:
    """Return noise in the shape of a known data set, for measurements that need no data; the test set is small."""
    shape = SHAPES[name]
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Tensor:
        return torch.randint(256, (count, *shape.image_size, 3), dtype=torch.uint8, generator=generator)

    test_labels = torch.arange(shape.num_classes)
    train_labels = torch.arange(shape.num_images) % shape.num_classes
    train_images, test_images = images(shape.num_images), images(shape.num_classes)
    return ArrayDataset(name, train_images, train_labels, test_images, test_labels, shape.num_classes)


def shape_of(protocol: Protocol) -> DataShape | None:
    """Return the shape of the images that networks are given under a protocol; None where its data have no name."""
    shape, side = SHAPES.get(protocol.dataset), protocol.rules.augmentation.size
    return DataShape(shape.num_images, (side, side), shape.num_classes) if shape and side else shape


@final
class FabricatedDataset(Dataset):
    """As many images as a data set has, all of them noise; one test image a class."""

    def __init__(self, name: str, shape: DataShape) -> None:
        self.name, self._shape, self.num_classes = name, shape, shape.num_classes
        self.train_labels = torch.arange(shape.num_images) % shape.num_classes
        self.test_labels = torch.arange(shape.num_classes)
        self.class_names, self.unused = None, ()

    @property
    def shape(self) -> DataShape:
        """Shape of the training images."""
        return self._shape

    @property
    def fingerprint(self) -> str:
        """None that another data set has."""
        return f"fabricated {self._shape}"

    def with_side(self, side: int) -> FabricatedDataset:
        """Return noise of another side."""
        return FabricatedDataset(self.name, replace(self._shape, image_size=(side, side)))

    @property
    def measured(self) -> Normalisation:
        """Those of values from 0 to 255 that are all as likely."""
        return (1 / 2,) * 3, (((256**2 - 1) / 12) ** 0.5 / 255,) * 3

    def training(self, protocol: Protocol, device: torch.device) -> StreamedImages:
        """Return batches of noise that are on the device."""
        return StreamedImages(_Noise(self._shape, device), self._shape, protocol, device)

    def evaluation(self, device: torch.device) -> StreamedEvaluation:
        """Return test images of noise."""
        return StreamedEvaluation(_Noise(self._shape, device), torch.arange(self.num_classes), device)

    def unaugmented(self, index: Tensor, device: torch.device) -> StreamedEvaluation:
        """Return as many images of noise."""
        return StreamedEvaluation(_Noise(self._shape, device), index, device)


@final
class _Noise:
    """Batches of noise in place of a loader's; those of one shape are one tensor."""

    def __init__(self, shape: DataShape, device: torch.device) -> None:
        self._size, self._device = shape.image_size, device
        self._made: dict[tuple[int, ...], Tensor] = {}

    def batches(self, items: Sequence[Item | EvaluationItem]) -> Iterator[Tensor]:
        """Return a batch for each item."""
        for item in items:
            shape = batch_shape(item, self._size[0])
            if shape not in self._made:
                self._made[shape] = torch.randint(
                    256, shape, dtype=torch.uint8, device=self._device, generator=torch.Generator(self._device)
                )
            yield self._made[shape]

    def check_shared_memory(self, num_images: int, num_views: int = 1, sides: Collection[int] = ()) -> None:
        """Do nothing: batches are not handed over."""

    def close(self) -> None:
        """Do nothing: there are no processes."""
