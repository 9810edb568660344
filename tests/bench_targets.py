"""Ratios that decide whether a grid is affordable; run with ``pytest tests/bench_targets.py --benchmark-only``.

Each ratio is the median over rounds in which both works are timed in turns; it is printed at the end and stored as
``extra_info`` of the benchmark. Batch 64, 2 threads, float32, 100 classes, 50,000 random images.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from kdbench.bench import Bench, Work, alternate, ratio
from kdbench.data.datasets import random_dataset
from kdbench.data.views import order, views
from kdbench.method import PLAIN
from kdbench.networks import build_net
from kdbench.protocol import load_protocol
from kdbench.run import Options
from kdbench.teacher_plan import Wanted

CPU = torch.device("cpu")
ROUNDS = 15
Opened = Callable[[str], Bench]


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return lambda pair: open_bench(pair, tmp_path)


def open_bench(pair: str, folder: Path) -> Bench:
    protocol = load_protocol("cifar100-crd-v1")
    return Bench(protocol, random_dataset("cifar100"), pair, folder, Options(runs=folder, device=CPU))


def compare(benchmark: Any, target: float, one: Work, other: Work, times: float = 1.0) -> None:
    """Note the ratio of one work to the other, which is to be at most ``target``."""
    found = alternate({"one": one, "other": other}, ROUNDS, CPU)
    benchmark.extra_info |= {"ratio": ratio(found, "one", "other") / times, "target": target}
    benchmark.pedantic(one, rounds=3)


@pytest.mark.parametrize("pair", ["resnet32x4>resnet8x4", "wrn_40_2>wrn_16_2", "ResNet50>MobileNetV2"])
@pytest.mark.parametrize("method", ["kd", "dkd"])
def test_logits_from_the_cache_over_the_student_alone(benchmark: Any, method: str, pair: str, opened: Opened) -> None:
    bench = opened(pair)
    compare(benchmark, 1.05, bench.cached_step(bench.cell(method)), bench.alone_step())


def test_crd_from_the_cache_over_the_student_alone(benchmark: Any, opened: Opened) -> None:
    bench = opened("resnet32x4>resnet8x4")
    compare(benchmark, 1.30, bench.cached_step(bench.cell("crd")), bench.alone_step())


def test_pckd_from_the_cache_over_the_student_alone_on_four_times_the_images(benchmark: Any, opened: Opened) -> None:
    bench = opened("resnet32x4>resnet8x4")
    cell = bench.cell("pckd")
    compare(benchmark, 1.15, bench.cached_step(cell), bench.alone_step(Wanted.by(cell).plan))


def test_the_trainer_over_a_loop_by_hand(benchmark: Any, opened: Opened) -> None:
    bench = opened("resnet32x4>resnet8x4")
    protocol, data = bench.protocol, bench.data
    net = build_net(bench.student, protocol, data.dataset, seed=1, purpose="student").train()
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    ids = views(1, 1, len(data.labels), data.images.augmentation, PLAIN)[0]
    batches = iter(order(1, 1, len(data.labels)).split(64))

    def by_hand() -> None:
        index = next(batches)
        images = data.images.augment(index, ids[index])
        optimizer.zero_grad()
        functional.cross_entropy(net.logits(images), data.labels[index]).backward()
        optimizer.step()

    compare(benchmark, 1.02, bench.alone_step(), by_hand)


def test_four_reviewkd_cells_in_lockstep_over_one_after_another(benchmark: Any, opened: Opened) -> None:
    bench = opened("resnet32x4>resnet8x4")
    cells = [bench.cell("reviewkd", {"review_weight": weight}) for weight in (0.6, 1.0, 5.0, 8.0)]
    apart = [bench.live_step(cell) for cell in cells]
    compare(benchmark, 0.75, bench.live_step(*cells), lambda: [step() for step in apart])


def test_crds_extra_memory(benchmark: Any, tmp_path: Path) -> None:
    """Peak memory of a process that trains by CRD, over one that trains the student alone, each the least of three;
    in MB. The peaks of equal processes lie up to 40 MB apart."""

    def peak(method: str) -> float:
        command = [sys.executable, __file__, method, str(tmp_path)]
        outputs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(3)]
        return min(map(float, outputs))

    megabytes = benchmark.pedantic(lambda: peak("crd") - peak("ce"), rounds=1)
    benchmark.extra_info |= {"extra MB": megabytes, "target": 100}


def peak_of_steps(method: str, folder: Path) -> float:
    """Peak resident memory of this process while a method trains, in MB, without that of the preparations."""
    bench = open_bench("resnet32x4>resnet8x4", folder)
    cell = bench.cell(method)
    step = bench.cached_step(cell) if cell.teacher else bench.alone_step()
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(10):
        step()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) * 1024 / 1e6


if __name__ == "__main__":
    torch.set_num_threads(2)
    sys.stdout.write(str(peak_of_steps(sys.argv[1], Path(sys.argv[2]))))
