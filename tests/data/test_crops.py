"""Boxes of random-resized crops against torchvision's, and their independence of everything but their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest, ks_2samp
from torchvision.transforms import RandomResizedCrop, transforms

from kdbench.data.decoding.crops import Crop, CropRules, plain_crop, random_box, strong_crop
from kdbench.experiment.rule_groups import AugmentationRules

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
RULES = CropRules(size=224, scale=SCALE, ratio=RATIO, interpolation="bilinear", evaluation_size=256, flip=True)
SIZES = [(375, 500), (500, 333), (1, 5000), (5000, 1), (1, 1), (2, 3), (64, 64), (60, 100), (100, 60), (3000, 20)]


def fed(numbers: Iterator[float]) -> SimpleNamespace:
    """What torchvision needs of torch for a box, in double precision and with given uniform numbers."""

    class Empty:
        def uniform_(self, low: Any, high: Any) -> torch.Tensor:
            return torch.as_tensor(low + next(numbers) * (high - low), dtype=torch.float64)

    return SimpleNamespace(
        tensor=lambda values: torch.tensor(values, dtype=torch.float64),
        log=torch.log,
        exp=torch.exp,
        empty=lambda _: Empty(),
        randint=lambda low, high, size: torch.tensor([int(next(numbers) * high)]),
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("scale", "ratio"), [(SCALE, RATIO), ((0.35, 1.0), (1.0, 1.0)), ((0.9, 1.0), (0.5, 0.6))])
def test_the_same_numbers_give_torchvisions_box(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    rng = np.random.default_rng(0)
    image = Image.new("1", size[::-1])
    for _ in range(30):
        numbers = rng.random(40).tolist()
        # torchvision draws a place only for a box that fits.
        ours = random_box(size, scale, ratio, iter(numbers))
        used = iter(needed(numbers, size, scale, ratio))
        with monkeypatch.context() as patch:
            patch.setattr(transforms, "torch", fed(used))
            expected = RandomResizedCrop.get_params(image, list(scale), list(ratio))
        assert ours == expected


def needed(
    numbers: list[float], size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> Iterator[float]:
    """The numbers without the places of boxes that do not fit."""
    for attempt in range(10):
        share, aspect, *place = numbers[4 * attempt : 4 * attempt + 4]
        area = size[0] * size[1] * (scale[0] + share * (scale[1] - scale[0]))
        quotient = math.exp(math.log(ratio[0]) + aspect * (math.log(ratio[1]) - math.log(ratio[0])))
        yield from (share, aspect)
        if 0 < round(math.sqrt(area * quotient)) <= size[1] and 0 < round(math.sqrt(area / quotient)) <= size[0]:
            yield from place


def test_boxes_are_distributed_as_torchvisions() -> None:
    height, width = 375, 500
    image = Image.new("1", (width, height))
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(3000)], float)
    crops = [plain_crop(RULES, (height, width), index, crop) for index in range(60) for crop in range(50)]
    ours = np.array([crop[:4] for crop in crops], float)
    for measure in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: np.log(box[:, 3] / box[:, 2]),
        lambda box: (box[:, 0] + 0.5) / (height - box[:, 2] + 1),
        lambda box: (box[:, 1] + 0.5) / (width - box[:, 3] + 1),
    ):
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > 0.01
    assert binomtest(sum(crop.flip for crop in crops), len(crops)).pvalue > 0.01
    mirrored = np.array([crop.flip for crop in crops])
    assert abs(np.corrcoef(mirrored, ours[:, 2])[0, 1]) < 0.05


def test_a_crop_is_a_function_of_image_and_number() -> None:
    """Kept outputs of teachers refer to crops by these numbers: they stay what they are."""
    size = (375, 500)
    assert plain_crop(RULES, size, 0, 0) == Crop(6, 24, 335, 426, flip=False)
    assert plain_crop(RULES, size, 1_281_166, 2**36 - 1) == Crop(47, 259, 222, 236, flip=True)
    assert strong_crop(RULES, size, 1, 2, 3, 4) == Crop(55, 37, 312, 358, flip=False)


def test_every_number_counts() -> None:
    size = (375, 500)
    assert len({plain_crop(RULES, size, index, crop) for index in range(5) for crop in range(5)}) == 25
    strong = [(1, 1, 1, 1), (2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)]
    assert len({strong_crop(RULES, size, *numbers) for numbers in strong}) == 5
    assert strong_crop(RULES, size, 0, 1, 1, 1) != plain_crop(RULES, size, 1, 1)


def test_without_flip_none_is_mirrored() -> None:
    rules = CropRules(size=8, scale=SCALE, ratio=RATIO, interpolation="bilinear", evaluation_size=8, flip=False)
    crops = [(plain_crop(rules, (9, 9), 0, crop), plain_crop(RULES, (9, 9), 0, crop)) for crop in range(20)]
    assert all(not ours.flip and ours[:4] == other[:4] for ours, other in crops)


def test_rules_of_a_protocol() -> None:
    rules = AugmentationRules(
        crop="resized", flip=True, size=224, scale=SCALE, ratio=RATIO, interpolation="bilinear", evaluation_size=256
    )
    assert CropRules.of(rules) == RULES
