"""Drawn features and maps in float64."""

from __future__ import annotations

import torch
from random_outputs import rng
from torch import Tensor


def features(seed: int, rows: int = 6, width: int = 5) -> Tensor:
    return torch.randn(rows, width, generator=rng(seed), dtype=torch.float64)


def maps(seed: int, channels: int = 5, size: int = 4) -> Tensor:
    return torch.randn(6, channels, size, size, generator=rng(seed), dtype=torch.float64)
