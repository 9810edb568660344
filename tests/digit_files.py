"""The embedded digits as a folder of JPEGs, and a protocol that streams them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from PIL import Image

from kdbench.data.datasets import load_dataset
from kdbench.data.subsets import subset
from kdbench.experiment import protocol
from kdbench.experiment.protocol import Protocol, read_protocol

NAME = "digits-folder-v1"
RULES = """
title = "Digits as image files"
source = "chosen here"
version = 1
baseline = "ce"
precision = "fp32"

[data]
dataset = "folder"
mean = [0.3, 0.3, 0.3]
std = [0.37, 0.37, 0.37]

[augmentation]
crop = "resized"
size = 16
scale = [0.5, 1.0]
ratio = [0.75, 1.3333333333333333]
interpolation = "bilinear"
evaluation_size = 18
flip = false

[optimizer]
learning_rate = 0.05
momentum = 0.9
nesterov = false
weight_decay = 5e-4

[schedule]
epochs = 2
batch_size = 16
group_size = 8
milestones = [0.6]

[demo]
pair = "resnet8>resnet8"
methods = ["ce"]
seeds = [1]
"""


def write_digits(folder: Path, *, train: int = 4, test: int = 2) -> Path:
    """Write so many images of each digit, of several sizes, as ``train/DIGIT/*.jpg`` and ``val/DIGIT/*.jpg``."""
    digits = subset(load_dataset("digits", Path()), train, test)
    for split, images, labels in (
        ("train", digits.train_images, digits.train_labels),
        ("val", digits.test_images, digits.test_labels),
    ):
        for number, (pixels, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            place = folder / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            size = (20 + number % 5, 18 + number % 7)
            image = Image.fromarray(pixels.numpy()).resize(size, Image.Resampling.BICUBIC)
            image.save(place / f"{number:03}.jpg", quality=92)
    return folder


def streamed_protocol(text: str = RULES) -> Protocol:
    """Return the protocol for these images."""
    return read_protocol(NAME, tomllib.loads(text), "rules")


def register(monkeypatch: pytest.MonkeyPatch, text: str = RULES) -> None:
    """Let the protocol be known by its name, as those of kdbench are."""
    load, made = protocol.load_protocol, streamed_protocol(text)

    def with_ours(name: str) -> Protocol:
        return made if name == NAME else load(name)

    for module in ("experiment.protocol", "engine.session", "grid.grid", "grid.file"):
        monkeypatch.setattr(f"kdbench.{module}.load_protocol", with_ours)
