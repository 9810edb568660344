"""Small data sets of image files, made on the fly."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog10", "dog9")


def write_image(path: Path, number: int = 0) -> None:
    """Write a JPEG whose bytes depend on the number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(256, size=(6 + number % 5, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def write_folder(root: Path, classes: Iterable[str] = CLASSES, train: int = 3, val: int = 2) -> Path:
    """Write ``train/CLASS/*`` and ``val/CLASS/*``."""
    for split, count in (("train", train), ("val", val)):
        for place, name in enumerate(classes):
            for number in range(count):
                write_image(root / split / name / f"{name}_{number}.JPEG", 10 * place + number + count)
    return root


def write_tars(root: Path, folder: Path) -> Path:
    """Pack the splits of a folder as ``train.tar`` and ``val.tar``."""
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as archive:
            archive.add(folder / split, arcname=".")
    return root


def age(root: Path, seconds: int = 10) -> None:
    """Make all files and folders older than what may have changed twice in one tick of the clock."""
    for path in (root, *root.rglob("*")):
        time = path.stat().st_mtime - seconds
        os.utime(path, (time, time))
