"""The test sets that are known by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

TEST_SETS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "digits": (500, 50),
        "cifar10": (10_000, 1_000),
        "cifar100": (10_000, 100),
        "fashion_mnist": (10_000, 1_000),
        "svhn": (26_032, 5_099),
        "stl10": (8_000, 800),
        "imagenet": (50_000, 50),
        "tinyimagenet": (10_000, 50),
    }
)
"""Images of each, and of its largest class."""
