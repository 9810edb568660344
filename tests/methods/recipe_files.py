"""The recipes of published settings, and the pairs of networks that papers compare on."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import kdbench.methods
from kdbench.method import Method

CIFAR_PAIRS = {
    *("wrn_40_2>wrn_16_2", "wrn_40_2>wrn_40_1", "resnet56>resnet20", "resnet110>resnet20", "resnet110>resnet32"),
    *("resnet32x4>resnet8x4", "vgg13>vgg8", "vgg13>MobileNetV2", "ResNet50>MobileNetV2", "ResNet50>vgg8"),
    *("resnet32x4>ShuffleNetV1", "resnet32x4>ShuffleNetV2", "wrn_40_2>ShuffleNetV1"),
}
IMAGENET_PAIRS = {
    *("torchvision:resnet34>torchvision:resnet18", "torchvision:resnet50>MobileNetV1"),
    "torchvision:resnet50>torchvision:resnet18",
}
PAIRS = {"cifar100": CIFAR_PAIRS, "imagenet": IMAGENET_PAIRS}


def recipes(method: type[Method], dataset: str | None = None) -> list[dict[str, Any]]:
    """The recipes of a method for one data set, or for all."""
    name = method.__module__.rpartition(".")[2]
    text = (Path(kdbench.methods.__path__[0]) / f"{name}.toml").read_text()
    found: list[dict[str, Any]] = tomllib.loads(text).get("recipe", [])
    return [recipe for recipe in found if dataset in {None, recipe["dataset"]}]
