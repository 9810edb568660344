"""How the images of an epoch are dealt out to steps, and those of a step to groups."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import final

from torch import Tensor

from kdbench.errors import UserError
from kdbench.experiment.rule_groups import ScheduleRules
from kdbench.utils.ranks import ALONE, Ranks


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Images of a step that go through the networks together; legend: ``n`` images."""

    step: int
    """Of its epoch, from 0."""
    number: int
    """Of its step, from 0."""
    first: int
    """Place of its first image in the order of the epoch."""
    index: Tensor
    """``(n,)``, positions in the whole training set, on the device."""
    share: float
    """Its images over those of the step."""


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """Steps and groups of an epoch of so many images, by the rules of a schedule.

    A last batch of fewer images is split into as many groups as the others, whose sizes differ by at most one; where
    that leaves a group with fewer than two images, the batch is left out, since batch norms cannot train on one.
    """

    num_images: int
    schedule: ScheduleRules
    ranks: Ranks = ALONE
    """The processes among which groups are dealt out."""

    @property
    def own(self) -> range:
        """Numbers of the groups of a step that this process computes."""
        return range(self.ranks.rank, self.schedule.num_groups, self.ranks.size)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        full, rest = divmod(self.num_images, self.schedule.batch_size)
        return full + (rest >= 2 * self.schedule.num_groups)

    @property
    def smallest(self) -> int:
        """Fewest images of a group."""
        full, rest = divmod(self.num_images, self.schedule.batch_size)
        smallest = rest if self.steps > full else self.schedule.batch_size
        return min(smallest, self.num_images) // self.schedule.num_groups

    def is_full(self, step: int) -> bool:
        """Return whether a step has as many images as a batch can have."""
        return (step + 1) * self.schedule.batch_size <= self.num_images

    def bounds(self, step: int) -> list[tuple[int, int]]:
        """Return the first place of each group of a step in the order of the epoch, and the one behind its last."""
        begin = step * self.schedule.batch_size
        num_images = min(self.schedule.batch_size, self.num_images - begin)
        size, larger = divmod(num_images, self.schedule.num_groups)
        sizes = [size + (number < larger) for number in range(self.schedule.num_groups)]
        return list(itertools.pairwise(itertools.accumulate(sizes, initial=begin)))


def check_devices(schedule: ScheduleRules, devices: int, name: str = "--devices") -> None:
    """Raise ``UserError`` unless each of so many devices has equally many groups of a batch."""
    if schedule.num_groups % devices == 0:
        return
    groups = f"{schedule.num_groups} groups of {schedule.images_together} images"
    if schedule.num_groups == 1:
        groups = f"one group of {schedule.images_together} images, which one device computes"
    raise UserError(
        f"{name} {devices}: a batch of this protocol is {groups}: the number of devices must divide that of the "
        "groups, which group_size in a protocol's [schedule] decides"
    )
