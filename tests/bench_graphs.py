"""CUDA graphs on a GPU; run with ``pytest tests/bench_graphs.py --benchmark-only``.

Ratios of one run, medians over rounds in which all works are timed in turns: six cells of one seed, batch 64, float32,
100 classes, random images of 32 x 32 pixels, an untrained live teacher.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.data.fabricated import random_dataset
from kdbench.engine.bench import Bench, Work, alternate, ratio
from kdbench.engine.options import Options
from kdbench.experiment.pairs import Pair
from kdbench.experiment.protocol import load_protocol
from kdbench.utils.device import prepare_process, processor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TOGETHER = ("ce", "kd", "dkd", "crd", "reviewkd", "at")
STEPS, ROUNDS = 10, 5


def many(*steps: Work) -> Work:
    def work() -> None:
        for step in steps:
            for _ in range(STEPS):
                step()

    return work


@pytest.mark.parametrize("pair", ["resnet56>resnet20", "wrn_40_2>wrn_16_2"])
def test_six_cells_in_lockstep_and_one_after_another(benchmark: Any, pair: str, tmp_path: Path) -> None:
    device = prepare_process(torch.device("cuda"))
    works: dict[str, Work] = {}
    for name, recorded in (("usual", False), ("recorded", True)):
        options = Options(runs=tmp_path, device=device, compile=recorded)
        bench = Bench(load_protocol("cifar100-crd-v1"), random_dataset("cifar100"), Pair.parse(pair), tmp_path, options)
        cells = [bench.cell(method) for method in TOGETHER]
        works[f"{name}, lockstep"] = many(bench.live_step(*cells))
        works[f"{name}, apart"] = many(*map(bench.live_step, cells))
    found = alternate(works, ROUNDS, device)
    benchmark.extra_info |= {f"{name} / usual, apart": ratio(found, name, "usual, apart") for name in works}
    for name, seconds in found.items():
        benchmark.extra_info[f"ms, {name}"] = 1000 / STEPS * statistics.median(seconds)
    benchmark.name = f"{pair} on {processor(device)}"
    benchmark.pedantic(works["recorded, lockstep"], rounds=3)
