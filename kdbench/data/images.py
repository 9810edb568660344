"""What training and evaluation need of a data set, whether its images stay in memory or are decoded while training.

Legend: ``N`` training images, ``n`` images of a group, ``V`` views of an image, ``H`` x ``W`` pixels, ``K`` classes.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from kdbench.data.groups import Group, Layout
from kdbench.data.views import ViewIds, check_plan
from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol
from kdbench.experiment.rule_groups import MEASURED, DataRules
from kdbench.method import ViewPlan

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, in [0, 1]."""


@final
@dataclass(frozen=True, slots=True)
class DataShape:
    """The shape of a data set's training images, as networks are given them."""

    num_images: int
    image_size: tuple[int, int]
    """Height and width in pixels."""
    num_classes: int


@final
class Unread(UserError):
    """Images cannot be read now, though they may be later: nothing is wrong with the cell."""


class Dataset(abc.ABC):
    """A labelled training and test set."""

    name: str
    """As tables show it."""
    train_labels: Tensor
    """``(N,)``, int64, on the CPU."""
    test_labels: Tensor
    """Of the test images, int64, on the CPU."""
    num_classes: int
    """``K``; every class occurs in both sets."""
    class_names: tuple[str, ...] | None
    unused: tuple[str, ...]
    """Names of what is there besides, and nothing reads."""

    @property
    @abc.abstractmethod
    def shape(self) -> DataShape:
        """Shape of the training images."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of all that decides images and labels: 64 hexadecimal digits."""

    @property
    @abc.abstractmethod
    def measured(self) -> Normalisation:
        """Mean and standard deviation of the training images' pixels; it may take long, once for a data set."""

    def measurements(self, rules: DataRules) -> dict[str, tuple[float, ...]]:
        """Return the numbers of the rules that say ``measured``, by the rules' names."""
        places = {name: place for place, name in enumerate(("mean", "std")) if getattr(rules, name) == MEASURED}
        return {name: self.measured[place] for name, place in places.items()}

    def normalisation(self, rules: DataRules) -> Normalisation:
        """Return a protocol's normalisation in numbers."""
        mean = self.measured[0] if isinstance(rules.mean, str) else rules.mean
        std = self.measured[1] if isinstance(rules.std, str) else rules.std
        return mean, std

    @abc.abstractmethod
    def with_side(self, side: int) -> Dataset:
        """Return the same images for a network that takes squares of another side, in pixels.

        Raises
        ------
        UserError
            The images are not square.
        """

    @abc.abstractmethod
    def training(self, protocol: Protocol, device: torch.device) -> TrainingImages:
        """Return the training images where they are used."""

    @abc.abstractmethod
    def evaluation(self, device: torch.device) -> EvaluationImages:
        """Return the test images where they are used."""

    @abc.abstractmethod
    def unaugmented(self, index: Tensor, device: torch.device) -> EvaluationImages:
        """Return training images by their numbers ``(B,)``, seen as test images are, where they are used."""


class EvaluationImages(abc.ABC):
    """Test images in batches of the size of forward passes, which can be gone through again and again."""

    @abc.abstractmethod
    def batches(self, first: int = 0, step: int = 1) -> Iterator[tuple[int, Tensor]]:
        """Return every so manyth batch from one on, in their order, each with the place of its first image.

        A batch is float32 ``(B, 3, H, W)`` in [0, 1] on the device.
        """


class TrainingImages(abc.ABC):
    """Training images of which views are made."""

    def __init__(
        self,
        numbering: ViewIds,
        size: tuple[int, int],
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        self.numbering = numbering
        """Gives view ids their meaning."""
        self.size = size
        """Height and width of a view."""
        self.device = device
        """Where views are made."""
        self.memory_format = memory_format
        """Of the views; ``channels_last`` is the order in which pixels lie, and costs nothing."""
        # CUDA multiplies by the reciprocal of a Python number; by a tensor it divides, as the CPU does.
        self._white = torch.tensor(255.0, device=device)

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of images, ``N``."""

    def close(self) -> None:  # noqa: B027 - images in memory have nothing to end
        """End what makes images ahead of their use; later calls begin it again."""

    def scaled(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels ``(B, 3, H, W)`` as float32 in [0, 1]."""
        return pixels.to(torch.float32, memory_format=self.memory_format).div_(self._white)

    def check(self, plan: ViewPlan, sides: Collection[int] = ()) -> None:  # noqa: ARG002 - of images that are decoded
        """Raise ``UserError`` for a plan with a quarter turn when the images are not square."""
        check_plan(plan, self.size)

    @abc.abstractmethod
    def epoch(
        self,
        seed: int,
        epoch: int,
        order: Tensor,
        layout: Layout,
        plans: Sequence[ViewPlan],
        sides: Collection[int] = (),
    ) -> EpochViews:
        """Prepare the views of an epoch that visits the images in this order ``(N,)``, in steps and groups.

        Parameters
        ----------
        sides
            Other sides at which they are looked up as well, for teachers with images of their own size.
        """

    @abc.abstractmethod
    def views(self, pairs: Tensor, side: int | None = None) -> Tensor:
        """Return views by their numbers ``(P,)``, see `ViewIds.pair`: float32 ``(P, 3, H, W)`` on the device."""


class EpochViews(abc.ABC):
    """The views of one epoch. What is done for a group has two halves, as :mod:`kdbench.engine.shared` says."""

    @abc.abstractmethod
    def ids(self, plan: ViewPlan, index: Tensor) -> Tensor:
        """Return the ids ``(V, n)`` of the views that have one of images at ``index`` ``(n,)``, both on the CPU."""

    @abc.abstractmethod
    def look_up(self, group: Group, plan: ViewPlan, side: int | None = None) -> Tensor:
        """Return what a plan's views of a group are made of, on the device."""

    @abc.abstractmethod
    def make(self, index: Tensor, source: Tensor, plan: ViewPlan, side: int | None = None) -> Tensor:
        """Make all views of a plan, float32 ``(V*n, 3, H, W)`` in [0, 1], of images at ``index`` ``(n,)``.

        With ``side``, they are the same views at that side, in pixels.
        """


def resized(images: Tensor, side: int | None) -> Tensor:
    """Return images ``(B, 3, H, W)`` in [0, 1] at another side, bilinearly and smoothed where they shrink.

    With None, they stay as they are.
    """
    if side is None:
        return images
    return interpolate(images, (side, side), mode="bilinear", antialias=True)
