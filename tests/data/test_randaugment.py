"""The strong augmentation against PIL, operation by operation, and its randomness."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor

from kdbench.data.randaugment import CHUNK, GREY, LARGEST_CUT_OUT, OPERATIONS, cut_out, strongly_augmented

NUM_LEVELS = 25


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(num_images: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.randint(256, (num_images, 3, height, width), dtype=torch.uint8, generator=rng())


def samples(height: int, width: int) -> Tensor:
    """Noise, dark noise in few levels, gradients, a chequered board, one colour, and one pixel that differs."""
    random = noise(3, height, width)
    down, across = torch.arange(height)[:, None] * 255 // height, torch.arange(width) * 255 // width
    gradient = torch.stack([down.expand(height, width), across.expand(height, width), (down + across) // 2])
    board = (
        (torch.arange(height)[:, None] // 3 + torch.arange(width) // 2)
        % 2
        * torch.tensor([200, 90, 255])[:, None, None]
    )
    plain = torch.tensor([17, 255, 0])[:, None, None].expand(3, height, width)
    spot = plain.clone()
    spot[:, height // 2, width // 3] = torch.tensor([18, 0, 255])
    structured = torch.stack([gradient, 40 + gradient // 3, board, plain, spot]).to(torch.uint8)
    return torch.cat([random, random[:1] // 64 + 9, structured])


def moved(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


PIL: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(level),
    "Color": lambda image, level: ImageEnhance.Color(image).enhance(level),
    "Contrast": lambda image, level: ImageEnhance.Contrast(image).enhance(level),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Identity": lambda image, _: image,
    "Posterize": lambda image, level: ImageOps.posterize(image, int(level)),
    "Rotate": lambda image, level: image.rotate(level),
    "Sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(level),
    "ShearX": lambda image, level: moved(image, 1, level, 0, 0, 1, 0),
    "ShearY": lambda image, level: moved(image, 1, 0, 0, level, 1, 0),
    "Solarize": ImageOps.solarize,  # type: ignore[dict-item]
    "TranslateX": lambda image, level: moved(image, 1, 0, level * image.width, 0, 1, 0),
    "TranslateY": lambda image, level: moved(image, 1, 0, 0, 0, 1, level * image.height),
}
"""The operations as FixMatch's transforms call them."""


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(32, 32), (96, 96), (17, 30), (2, 2)], ids=str)
@pytest.mark.parametrize("name", [name for name, (operation, *_) in OPERATIONS.items() if operation is not None])
def test_every_pixel_is_pils(name: str, size: tuple[int, int]) -> None:
    """Also those of the geometric operations: their coordinates are rounded as PIL rounds them."""
    operation, low, high = OPERATIONS[name]
    assert operation is not None
    images = samples(*size)
    levels = low + (high - low) * torch.rand(NUM_LEVELS, dtype=torch.float64, generator=rng(1))
    special = torch.tensor([low, (low + high) / 2, high], dtype=torch.float64)
    levels = torch.cat([levels, special])
    rows = torch.arange(len(images)).repeat_interleave(len(levels))
    every = levels.repeat(len(images))
    pairs = zip(images[rows], every.tolist(), strict=True)
    expected = torch.stack([from_pil(PIL[name](to_pil(image), level)) for image, level in pairs])
    actual = operation(images[rows], every)
    assert actual.dtype == torch.uint8
    different = (actual != expected).flatten(1).any(dim=1)
    assert not different.any(), f"{different.sum()} of {len(rows)}; magnitudes {every[different][:5].tolist()}"


@pytest.mark.parametrize("size", [(32, 32), (17, 30)], ids=str)
def test_the_cut_out_is_the_rectangle_that_pil_draws(size: tuple[int, int]) -> None:
    height, width = size
    images = noise(200, height, width)
    share, x, y = torch.rand(3, len(images), dtype=torch.float64, generator=rng(2))
    share[:3], x[3:6], y[5:8] = 0.0, 0.0, 1 - 2**-53
    share *= LARGEST_CUT_OUT
    expected = []
    for image, side, across, down in zip(images, (share * width).tolist(), x.tolist(), y.tolist(), strict=True):
        left, upper = int(max(0, across * width - side / 2)), int(max(0, down * height - side / 2))
        drawn = to_pil(image)
        ImageDraw.Draw(drawn).rectangle((left, upper, min(width, left + side), min(height, upper + side)), GREY)
        expected.append(from_pil(drawn))
    actual = cut_out(images, share, x, y)
    assert torch.equal(actual, torch.stack(expected))
    assert (actual != images).flatten(1).any(dim=1).all()


def test_all_of_it_is_what_a_loop_over_images_makes() -> None:
    """The order of draws: operations, magnitudes, then side and centre of the cut-out, each for all images."""
    images, names = samples(32, 32).repeat(20, 1, 1, 1), list(OPERATIONS)
    draw = rng(3)
    chosen = torch.randint(len(names), (2, len(images)), generator=draw)
    levels = torch.rand(2, len(images), dtype=torch.float64, generator=draw)
    share, x, y = torch.rand(3, len(images), dtype=torch.float64, generator=draw)
    expected = []
    for number, image in enumerate(images):
        result = to_pil(image)
        for turn in range(2):
            name = names[chosen[turn, number]]
            _, low, high = OPERATIONS[name]
            result = PIL[name](result, (low + (high - low) * levels[turn, number]).item())
        at = slice(number, number + 1)
        expected.append(cut_out(from_pil(result)[None], 0.5 * share[at], x[at], y[at]))
    assert torch.equal(strongly_augmented(images, rng(3)), torch.cat(expected))


def test_a_seed_decides_all_and_the_images_are_left_alone() -> None:
    images = noise(100)
    before = images.clone()
    once, again, other = (strongly_augmented(images, rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(once, again)
    assert torch.equal(images, before)
    assert (once != other).flatten(1).any(dim=1).float().mean() > 0.9
    assert once.dtype == torch.uint8
    assert once.shape == images.shape


def test_what_happens_to_an_image_does_not_depend_on_the_others() -> None:
    images = noise(60)
    changed = torch.cat([images[:30], 255 - images[30:]])
    assert torch.equal(strongly_augmented(images, rng())[:30], strongly_augmented(changed, rng())[:30])


def test_large_groups_are_done_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(300)
    whole = strongly_augmented(images, rng())
    assert 300 * images[0].numel() < CHUNK
    for values in (1, 7 * images[0].numel()):
        monkeypatch.setattr("kdbench.data.randaugment.CHUNK", values)
        assert torch.equal(strongly_augmented(images, rng()), whole)


def test_operations_and_magnitudes_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    """14 operations drawn with replacement, magnitudes over their whole range; a recorded chi-square, seeded."""
    seen: dict[str, list[Tensor]] = {name: [] for name in OPERATIONS}

    def recorder(name: str) -> object:
        def record(images: Tensor, level: Tensor) -> Tensor:
            seen[name].append(level)
            return images

        return record

    recorded = {name: (recorder(name), low, high) for name, (_, low, high) in OPERATIONS.items()}
    monkeypatch.setattr("kdbench.data.randaugment.OPERATIONS", recorded)
    strongly_augmented(noise(14_000, 1, 1), rng(7))
    counts = torch.tensor([sum(map(len, levels)) for levels in seen.values()])
    assert counts.sum() == 28_000
    assert ((counts - 2000) ** 2 / 2000).sum() < 34.5  # 0.1 % of chi-square with 13 degrees of freedom
    for name, levels in seen.items():
        _, low, high = OPERATIONS[name]
        bins = torch.histc((torch.cat(levels) - low) / (high - low), 10, 0, 1)
        expected = bins.sum() / 10
        assert bins.sum() == len(torch.cat(levels))
        assert ((bins - expected) ** 2 / expected).sum() < 36, name  # 0.004 % with 9, for 14 looks


def test_the_cut_out_is_up_to_half_as_wide_as_the_image_and_may_be_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.data.randaugment.NUM_OPERATIONS", 0)
    images = torch.zeros(4000, 3, 32, 32, dtype=torch.uint8)
    hidden = strongly_augmented(images, rng(8))[:, 0] == GREY[0]
    widths = hidden.any(dim=1).sum(dim=1)
    assert widths.min() == 1
    assert widths.max() == 16  # a side below 16, and both edges belong to the square
    share = hidden.float().mean(dim=0)
    assert share.min() > 0.02
    assert share.argmax() not in (0, 31, 32 * 31, 32 * 32 - 1)
