"""Files and batches for tests of the loader."""

from __future__ import annotations

from collections.abc import Callable

import torch
from photos import encoded, photo

from kdbench.data.decoding.crops import CropRules
from kdbench.data.decoding.loader import ImageLoader, Item

RULES = CropRules(
    size=32, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bilinear", evaluation_size=36, flip=True
)
CONTENTS = [encoded(photo(60, 45, seed=seed), "JPEG") for seed in range(10)]
Loading = Callable[..., ImageLoader]


def items(seed: int = 1, num_strong: int = 0) -> list[Item]:
    """Nine batches of two images, one of three, and one of an image that comes several times."""
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randint(10, (size,), generator=generator) for size in [2] * 9 + [3]] + [torch.full((5,), 7)]
    return [
        Item(index, torch.randint(2**36, (len(index),), generator=generator), seed, 2, num_strong) for index in batches
    ]
