"""The reader of image files over what it cannot do without, and over timm's; ratios of one run on one core.

The files are 64 JPEGs of 500 x 375 pixels at quality 90 (`photos.photo`), about 105 kB each, in the system's cache. Run
with ``pytest tests/bench_reader.py --benchmark-only``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from photos import encoded, photo
from PIL import Image
from timm.data import ImageDataset, create_loader
from torch import Tensor

from kdbench.data.decoding.crops import CropRules, plain_crop
from kdbench.data.decoding.decode import Decoder
from kdbench.data.decoding.loader import ImageLoader, Item
from kdbench.engine.bench import Work, alternate, ratio

ROUNDS = 15
NUM_FILES = 64
SIZE = (375, 500)
RULES = CropRules(
    size=224, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bilinear", evaluation_size=256, flip=True
)


class Folder:
    """The files of a folder, as a listing reads them."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return str(self._paths[index])

    def read(self, index: int) -> bytes:
        return self._paths[index].read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    (folder / "cat").mkdir()
    for seed in range(NUM_FILES):
        content = encoded(photo(*SIZE[::-1], seed=seed), "JPEG", quality=90)
        (folder / "cat" / f"{seed:02}.jpg").write_bytes(content)
    return folder


def compare(benchmark: Any, work: Work, other: Work, *, least: float | None = None, most: float | None = None) -> None:
    """Note the ratio of images a second (``least``) or of times (``most``) of one work to another."""
    times = alternate({"work": work, "other": other}, ROUNDS, torch.device("cpu"))
    if least is not None:
        benchmark.extra_info |= {"images/s ratio": ratio(times, "other", "work"), "target": least}
    else:
        benchmark.extra_info |= {"time ratio": ratio(times, "work", "other"), "target": most}
    benchmark.pedantic(work, rounds=3)


def floor(folder: Path, crops: int) -> Work:
    """Pillow's decode, crop and resize of the same boxes of the same files, with nothing around them."""
    numbers = range(crops)
    todo = [
        (path, [plain_crop(RULES, SIZE, index, number)[:4] for number in numbers])
        for index, path in enumerate(sorted(folder.rglob("*.jpg")))
    ]

    def work() -> None:
        for path, boxes in todo:
            with Image.open(path) as image:
                image.load()
                for top, left, height, width in boxes:
                    box = image.crop((left, top, left + width, top + height))
                    box.resize((RULES.size, RULES.size), Image.Resampling.BILINEAR)

    return work


def in_process(folder: Path) -> Callable[[], Iterator[Tensor]]:
    """Batches of 16 by this process, of the same boxes."""
    opened = ImageLoader(Decoder(Folder(folder), RULES), 0)
    items = [Item(index, torch.zeros_like(index)) for index in torch.arange(NUM_FILES).split(16)]
    return lambda: opened.batches(items)


def test_images_a_second_over_the_bare_loop(benchmark: Any, folder: Path) -> None:
    batches = in_process(folder)
    compare(benchmark, lambda: list(batches()), floor(folder, 1), least=0.85)


def test_four_rotations_over_a_bare_decode_and_four_crops(benchmark: Any, folder: Path) -> None:
    batches = in_process(folder)

    def rotated() -> None:
        for batch in batches():
            torch.cat([batch[0].rot90(turns, (2, 3)) for turns in range(4)])

    compare(benchmark, rotated, floor(folder, 4), most=1.1)


def test_images_a_second_over_timms_loader(benchmark: Any, folder: Path) -> None:
    """One process each that decodes ahead, epochs of four batches of 16, crops and flips of one law; pixels stay uint8
    on both sides, without timm's normalisation on the device."""
    opened = ImageLoader(Decoder(Folder(folder), RULES), 1)
    epochs = itertools.count(1)
    timms = create_loader(
        ImageDataset(str(folder)),
        (3, RULES.size, RULES.size),
        16,
        is_training=True,
        scale=RULES.scale,
        ratio=RULES.ratio,
        hflip=0.5,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=1,
        device=torch.device("cpu"),
    ).loader

    def ours() -> None:
        order = torch.randperm(NUM_FILES)
        crops = torch.full_like(order, next(epochs))
        for batch in opened.batches([Item(*numbers) for numbers in zip(order.split(16), crops.split(16), strict=True)]):
            assert batch.shape[1:] == (16, 3, RULES.size, RULES.size)

    def theirs() -> None:
        for batch, _ in timms:
            assert batch.shape == (16, 3, RULES.size, RULES.size)

    compare(benchmark, ours, theirs, least=1.0)
    opened.close()
