"""Image files in memory: smooth random images whose JPEGs are as large as those of photographs, and odd ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdbench.data.decoding.decode import Decoder


def photo(width: int = 500, height: int = 375, seed: int = 0) -> Image.Image:
    """Random brightness at scales from the whole image to one pixel, the finer the fainter, and colours at the coarse
    ones. As a JPEG of quality 90, 500 x 375 pixels make about 105 kB; a file of ImageNet has 110 kB on average.
    """
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128.0)
    scale = max(width, height)
    while scale >= 1:
        coarse = rng.integers(0, 256, (-(-height // scale) + 1, -(-width // scale) + 1, 3), dtype=np.uint8)
        if scale < 16:
            coarse = np.repeat(coarse[..., :1], 3, axis=2)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        pixels += (smooth - 127.5) * (0.3 + 0.4 * (scale / max(width, height)) ** 0.5)
        scale //= 2
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file of an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


class Files:
    """Files in memory that are named as those of a training set."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        self.contents = contents

    def __len__(self) -> int:
        return len(self.contents)

    def name(self, index: int) -> str:
        return f"train/cat/{index}.jpg"

    def read(self, index: int) -> bytes:
        return self.contents[index]


def views(decoder: Decoder, index: int, crop: int, *, seed: int = 0, epoch: int = 0, num_strong: int = 0) -> Tensor:
    """The crop with a number and strong views of a training image, ``(1 + R, 3, S, S)``."""
    image = decoder.image(index)
    strong = [decoder.strong(image, seed, epoch, index, row) for row in range(num_strong)]
    return torch.from_numpy(np.stack([decoder.plain(image, index, crop), *strong]))


def centre(decoder: Decoder, index: int) -> Tensor:
    """A test image, ``(3, S, S)``."""
    return torch.from_numpy(decoder.test(decoder.image(index)).copy())
