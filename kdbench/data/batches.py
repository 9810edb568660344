"""Images, labels and batches on the device, equal for all cells of one protocol and seed."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from kdbench.data.datasets import Dataset
from kdbench.data.resident import ResidentImages, strong_views
from kdbench.data.views import Augmentation, order, views
from kdbench.experiment.protocol import Protocol
from kdbench.method import ViewPlan
from kdbench.utils.device import memory_format


@final
class DeviceData:
    """A data set where it is used: training images ready to be augmented, test images, labels."""

    def __init__(self, dataset: Dataset, protocol: Protocol, device: torch.device) -> None:
        self.dataset = dataset
        self.device = device
        augmentation = Augmentation.of(protocol.rules.augmentation)
        layout = memory_format(device, protocol.precision)
        self.images = ResidentImages(dataset.train_images, augmentation, device, layout)
        self.labels = dataset.train_labels.to(device)
        self.test_images = dataset.test_images.to(device)


@final
class Batches:
    """The batches of one protocol and seed, equal for every cell that shares them.

    Add a plan before its images are read. Legend: ``B`` images, ``V`` views, ``N`` training images.
    """

    def __init__(self, data: DeviceData, protocol: Protocol, seed: int) -> None:
        self.data, self.seed = data, seed
        self.num_images = len(data.labels)
        self.batch_size = protocol.batch_size
        self.steps = num_steps(self.num_images, self.batch_size)
        self.epoch = 0
        self._plans: set[ViewPlan] = set()
        self._permutation = torch.empty(0, dtype=torch.int64)
        self._index = self._permutation
        self._ids: dict[ViewPlan, Tensor] = {}
        self._device_ids: dict[ViewPlan, Tensor] = {}
        self._strong: list[Tensor] = []

    def add(self, plan: ViewPlan) -> None:
        """Prepare a plan's views from the next epoch on.

        Raises
        ------
        ValueError
            The plan rotates by a quarter turn and the images are not square.
        """
        self.data.images.check(plan)
        self._plans.add(plan)

    def begin(self, epoch: int) -> None:
        """Move to an epoch, by its number in streams: the protocol's are 1, 2, ..., pre-training ends with 0."""
        self.epoch = epoch
        self._permutation = order(self.seed, epoch, self.num_images)
        self._index = self._permutation.to(self.data.device, non_blocking=True)
        self._ids = {p: views(self.seed, epoch, self.num_images, self.data.images.augmentation, p) for p in self._plans}
        self._device_ids = {p: ids.to(self.data.device, non_blocking=True) for p, ids in self._ids.items()}
        num_strong = max((plan.num_strong for plan in self._plans), default=0)
        self._strong = [strong_views(self.seed, epoch, self.data.images, row) for row in range(num_strong)]

    def index(self, step: int) -> Tensor:
        """Return positions ``(B,)`` of a step's images in the training set, on the device; steps count from 0."""
        return self._index[self._rows(step)]

    def ids(self, step: int, plan: ViewPlan) -> Tensor:
        """Return the ids ``(V, B)`` of a step's views that have one, on the device."""
        return self._device_ids[plan][:, self.index(step)]

    def images(self, index: Tensor, ids: Tensor, plan: ViewPlan) -> Tensor:
        """Return all views of a plan, ``(V*B, 3, H, W)`` in [0, 1], of images at ``index`` with the given ids."""
        plain = self.data.images.augment(index, ids)
        strong = [self.data.images.scaled(rows[index]) for rows in self._strong[: plan.num_strong]]
        return torch.cat([plain, *strong]) if strong else plain

    def visits(self, steps: range, plan: ViewPlan) -> Tensor:
        """Return (image, view) pairs as one number each, int64 on the CPU, in the order of the steps' rows.

        See :meth:`kdbench.data.views.Augmentation.pair`.
        """
        ids, pair = self._ids[plan], self.data.images.augmentation.pair
        chunks = (self._permutation[self._rows(step)] for step in steps)
        return torch.cat([pair(index, ids[:, index]).flatten() for index in chunks])

    def _rows(self, step: int) -> slice:
        return slice(step * self.batch_size, (step + 1) * self.batch_size)


def num_steps(num_images: int, batch_size: int) -> int:
    """Return the steps of an epoch; a last batch of one image is dropped, since batch norms cannot train on it."""
    full, rest = divmod(num_images, batch_size)
    return full + (rest > 1)


def smallest_batch(num_images: int, batch_size: int) -> int:
    """Return the fewest images of a batch of an epoch; see `num_steps`."""
    rest = num_images % batch_size
    return rest if rest > 1 else min(batch_size, num_images)
