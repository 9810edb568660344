"""How fast image files become batches here, in the steady state: once what was made ahead is used up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import torch

from kdbench.data.batches import Batches, DeviceData
from kdbench.data.decoding.processes import PREFETCH
from kdbench.data.decoding.streamed import StreamedDataset
from kdbench.experiment.protocol import Protocol
from kdbench.method import PLAIN, ViewPlan
from kdbench.utils.device import wait_for

_GROUPS = 16
"""Groups that are timed at least."""


def loading_seconds(
    dataset: StreamedDataset,
    protocol: Protocol,
    device: torch.device,
    plan: ViewPlan = PLAIN,
    observe: Callable[[float], None] = lambda _: None,
) -> float:
    """Return the seconds in which the loader makes the views of one image, with the device waiting for it.

    Parameters
    ----------
    observe
        Called with the part that is done, in [0, 1].
    """
    batches = Batches(DeviceData(dataset, protocol, device), protocol, 1)
    batches.add(plan)
    ahead = PREFETCH * dataset.num_workers
    timed = max(_GROUPS, 2 * ahead)
    groups, num_images = _groups(batches, plan), 0
    try:
        for number in range(ahead + 1):
            next(groups)
            observe(number / (ahead + timed))
        started = time.perf_counter()
        for number in range(timed):
            num_images += next(groups)
            observe((ahead + number + 1) / (ahead + timed))
        return (time.perf_counter() - started) / num_images
    finally:
        batches.data.images.close()


def steady_seconds(step: Callable[[], object], batches: Batches, num_workers: int, rounds: int) -> float:
    """Return the seconds of one of so many steps in a row on the batches of a loader, which ends with them."""
    ahead = PREFETCH * num_workers // batches.schedule.num_groups
    try:
        for _ in range(ahead + 2):
            step()
        wait_for(batches.data.device)
        started = time.perf_counter()
        for _ in range(rounds):
            step()
        wait_for(batches.data.device)
        return (time.perf_counter() - started) / rounds
    finally:
        batches.data.images.close()


def _groups(batches: Batches, plan: ViewPlan) -> Iterator[int]:
    """Read one group after the other, and yield its number of images; epoch follows epoch, as in training."""
    for epoch in itertools.count(1):
        batches.begin(epoch)
        for group in itertools.chain.from_iterable(map(batches.groups, range(batches.steps))):
            batches.views.look_up(group, plan)
            yield len(group.index)
