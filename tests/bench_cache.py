"""Reading a large teacher cache; run with ``pytest tests/bench_cache.py --benchmark-only``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdbench.net import Part
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cache_folder import Identity

NUM_PAIRS = 2_000_000
IDENTITY = Identity(network="x", weights="w", data="d", mean=(0.5,), std=(1.0,), pad=4, precision="fp32")


def test_a_block_of_32_steps_of_64_images_out_of_two_million(benchmark: Any, tmp_path: Path) -> None:
    """100 logits a pair: 0.8 GB."""

    def forward(pairs: Tensor) -> Mapping[Part, Tensor]:
        return {"logits": pairs[:, None].float().expand(-1, 100)}

    cache = TeacherCache(tmp_path, IDENTITY)
    generator = np.random.default_rng(0)
    pairs = np.unique(generator.integers(0, 50_000 * 648, NUM_PAIRS))
    cache.build(pairs, ("logits",), forward, batch=10_000)
    read = benchmark(lambda: cache.read(generator.choice(pairs, 32 * 64), "logits"))
    assert torch.equal(read[0], read[0, :1].expand(100))
