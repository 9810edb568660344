"""Images, labels and batches on the device, equal for all cells of one protocol and seed."""

from __future__ import annotations

from collections.abc import Collection
from typing import final

import torch
from torch import Tensor

from kdbench.data.groups import Group, Layout
from kdbench.data.held_out import Division
from kdbench.data.images import Dataset, EpochViews
from kdbench.data.views import order
from kdbench.experiment.protocol import Protocol
from kdbench.method import ViewPlan
from kdbench.utils.ranks import ALONE, Ranks


@final
class DeviceData:
    """A data set where it is used: training images ready to be augmented, test images, labels."""

    def __init__(self, dataset: Dataset, protocol: Protocol, device: torch.device) -> None:
        self.dataset = dataset
        self.device = device
        self.images = dataset.training(protocol, device)
        self.labels = dataset.train_labels.to(device)
        self.evaluation = dataset.evaluation(device)
        self._divisions: dict[float, Division] = {}

    def division(self, share: float) -> Division:
        """Return the training images divided by a share that is held out; it is made once."""
        if share not in self._divisions:
            self._divisions[share] = Division.of(self.dataset.train_labels, share)
        return self._divisions[share]


@final
class Batches:
    """The batches of one protocol and seed, equal for every cell that shares them.

    Add a plan before its images are read. Legend: ``n`` images of a group, ``V`` views, ``N`` images that are trained
    on.
    """

    def __init__(self, data: DeviceData, protocol: Protocol, seed: int, ranks: Ranks = ALONE) -> None:
        self.data, self.seed = data, seed
        labels = data.dataset.train_labels
        self._division = data.division(protocol.rules.evaluation.validation)
        trained, held_out = self._division.trained, self._division.held_out
        self.trained = trained
        """Numbers of the images that are trained on, ``(N,)``, int64, on the CPU."""
        self.labels = labels[trained]
        """Of the images that are trained on, ``(N,)``, int64, on the CPU."""
        self.num_images = len(trained)
        self._places = self._division.places.to(data.device) if len(held_out) else None
        self.validation = data.dataset.unaugmented(held_out, data.device) if len(held_out) else None
        """The images that are held out."""
        self.validation_labels = labels[held_out]
        self.schedule = protocol.rules.schedule
        self.layout = Layout(self.num_images, self.schedule, ranks)
        self.steps = self.layout.steps
        self.epoch = 0
        self._plans: set[ViewPlan] = set()
        self._sides: set[int] = set()
        self._permutation = torch.empty(0, dtype=torch.int64)
        self._index = self._permutation
        self._views: EpochViews | None = None

    def add(self, plan: ViewPlan, sides: Collection[int] = ()) -> None:
        """Prepare a plan's views from the next epoch on, at other sides as well.

        Raises
        ------
        ValueError
            The plan rotates by a quarter turn and the images are not square.
        """
        self._sides.update(sides)
        self.data.images.check(plan, self._sides)
        self._plans.add(plan)

    def begin(self, epoch: int) -> None:
        """Move to an epoch, by its number in streams: the protocol's are 1, 2, ..., pre-training ends with 0."""
        self.epoch = epoch
        self._permutation = self.trained[order(self.seed, epoch, self.num_images)]
        self._index = self._permutation.to(self.data.device, non_blocking=True)
        self._views = self.data.images.epoch(
            self.seed, epoch, self._permutation, self.layout, list(self._plans), self._sides
        )

    def groups(self, step: int) -> list[Group]:
        """Return this process's groups of a step, from 0, in the order of their images."""
        bounds = self.layout.bounds(step)
        num_images = bounds[-1][1] - bounds[0][0]
        return [
            Group(step, number, first, self._index[first:last], (last - first) / num_images)
            for number, (first, last) in enumerate(bounds)
            if number in self.layout.own
        ]

    @property
    def views(self) -> EpochViews:
        """The views of this epoch."""
        assert self._views, "no epoch has begun"
        return self._views

    def places(self, index: Tensor) -> Tensor:
        """Return the places ``(n,)`` of images among those that are trained on."""
        return index if self._places is None else self._places[index]

    def images(self, group: Group, plan: ViewPlan, side: int | None = None) -> Tensor:
        """Return all views of a plan, ``(V*n, 3, H, W)`` in [0, 1], of a group's images."""
        return self.views.make(group.index, self.views.look_up(group, plan, side), plan, side)

    def visits(self, steps: range, plan: ViewPlan) -> Tensor:
        """Return (image, view) pairs as one number each, int64 on the CPU, in the order of the rows of the groups.

        See :meth:`kdbench.data.views.ViewIds.pair`.
        """
        pair = self.data.images.numbering.pair
        places = (bounds for step in steps for bounds in self.layout.bounds(step))
        chunks = (self._permutation[first:last] for first, last in places)
        return torch.cat([pair(index, self.views.ids(plan, index)).flatten() for index in chunks])
