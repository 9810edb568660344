"""Groups of a batch, and cells in lockstep on image files; run with ``pytest tests/bench_groups.py --benchmark-only``.

Ratios of one run, medians over rounds in which both works are timed in turns. 2 threads, float32.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_targets import CPU, ROUNDS, compare, peak
from photos import photo

from kdbench.data.batches import Batches
from kdbench.data.fabricated import fabricated
from kdbench.data.place import DataPlace
from kdbench.engine.bench import Bench, Stepper
from kdbench.engine.options import Options
from kdbench.engine.shared import Feed, SharedInputs
from kdbench.experiment.pairs import Pair
from kdbench.experiment.protocol import Protocol, load_protocol
from kdbench.experiment.registry import load_method
from kdbench.teachers.sources import NetworkSource
from kdbench.utils.device import prepare_process

TOGETHER = ("ce", "kd", "dkd", "crd", "reviewkd", "at")


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def steps(group_size: int, folder: Path) -> Stepper:
    """Steps of resnet20 on 256 images of 32 x 32 pixels."""
    protocol = load_protocol("cifar100-crd-v1").override(batch_size=256, group_size=group_size)
    options = Options(runs=folder, device=prepare_process(CPU))
    bench = Bench(protocol, fabricated(protocol), Pair.parse("resnet20>resnet20"), folder, options)
    return bench.live_step(bench.cell("ce"))


def test_four_groups_of_64_over_one_batch_of_256(benchmark: Any, tmp_path: Path) -> None:
    compare(benchmark, 1.10, steps(64, tmp_path), steps(256, tmp_path))


def test_memory_of_four_groups_over_that_of_one_batch(benchmark: Any, tmp_path: Path) -> None:
    """What steps add to the memory of a process; the least of three processes each."""

    def added(group_size: int) -> float:
        command = [sys.executable, __file__, str(group_size), str(tmp_path)]
        runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(3)]
        return min(map(float, runs))

    megabytes = benchmark.pedantic(lambda: (added(64), added(256)), rounds=1)
    benchmark.extra_info |= {"MB": megabytes[0], "ratio": megabytes[0] / megabytes[1], "target": 0.5}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for split, count in (("train", 128), ("val", 2)):
        for label in range(2):
            (folder / split / str(label)).mkdir(parents=True)
            for number in range(count):
                path = folder / split / str(label) / f"{number:03}.jpg"
                photo(120, 90, seed=1000 * label + number).save(path, quality=90)
    return folder


def shared_work(methods: tuple[str, ...], protocol: Protocol, images: Path, folder: Path) -> Callable[[], None]:
    """Data and teacher of one step, for cells of these methods in lockstep."""
    dataset = DataPlace.parse(f"folder:{images}").open(protocol, download=False, num_workers=0)
    options = Options(runs=folder, device=prepare_process(CPU))
    bench = Bench(protocol, dataset, Pair.parse("timm:resnet10t>timm:resnet10t"), folder, options)
    source, wanted = NetworkSource(bench.live, None), dict[Feed, frozenset[Any]]()
    for name in methods:
        kind, config = load_method(name), bench.cell(name).settings.config
        parts = kind.reads(config, "training").teacher
        feed = Feed(source if parts else None, kind.views(config))
        wanted[feed] = wanted.get(feed, frozenset()) | parts
    batches = Batches(bench.data, protocol, 1)
    for feed in wanted:
        batches.add(feed.plan)
    batches.begin(1)
    shared = SharedInputs(batches, CPU)
    shared.open(wanted.items())

    def work() -> None:
        for group in batches.groups(0):
            shared.make(group.index, shared.look_up(group, wanted))

    return work


def test_data_and_teacher_of_six_cells_over_those_of_one(benchmark: Any, images: Path, tmp_path: Path) -> None:
    """timm:resnet10t at 64 pixels on JPEGs of 120 x 90, groups of 64 in this process."""
    protocol = load_protocol("imagenet-crd-v1").override(crop_size=64, evaluation_size=72)
    six = shared_work(TOGETHER, protocol, images, tmp_path)
    # The most that one of them needs: reviewkd reads all stages.
    compare(benchmark, 1.05, six, shared_work(("reviewkd",), protocol, images, tmp_path))


if __name__ == "__main__":
    torch.set_num_threads(2)
    step = steps(int(sys.argv[1]), Path(sys.argv[2]))
    Path("/proc/self/clear_refs").write_text("5")  # what is now in memory counts, and no earlier peak
    before = peak()
    for _ in range(ROUNDS):
        step()
    sys.stdout.write(str(peak() - before))
