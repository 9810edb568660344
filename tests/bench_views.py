"""Time of one epoch's augmentation; run with ``pytest tests/bench_views.py --benchmark-only``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdbench.data.randaugment import strongly_augmented
from kdbench.data.resident import ResidentImages
from kdbench.data.views import Augmentation, order
from kdbench.method import PLAIN, ViewPlan


@pytest.mark.parametrize("plan", [PLAIN, ViewPlan((0, 1, 2, 3))], ids=["plain", "rotations"])
def test_an_epoch_of_cifar_in_batches_of_64(benchmark: Any, plan: ViewPlan) -> None:
    augmentation = Augmentation(pad=4, flip=True)
    images = torch.randint(256, (50_000, 32, 32, 3), dtype=torch.uint8)
    resident = ResidentImages(images, augmentation, memory_format=torch.channels_last)

    def epoch() -> None:
        chosen = augmentation.draw(0, 1, len(resident), plan)
        for index in order(0, 1, len(resident)).split(64):
            resident.augment(index, chosen[:, index])

    benchmark.pedantic(epoch, rounds=3, warmup_rounds=1)


def test_an_epoch_of_cifar_strongly_augmented_at_once(benchmark: Any) -> None:
    images = torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    benchmark.pedantic(strongly_augmented, (images, generator), rounds=3, warmup_rounds=1)
