"""What is stored of a pair depends on the pair alone, though kernels look at a batch's size and at places in it."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from cells import CPU, make_source, tiny_protocol
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kdbench.data.batches import DeviceData
from kdbench.data.datasets import ArrayDataset, load_dataset
from kdbench.data.views import Augmentation
from kdbench.net import PARTS, Backbone, Features, Net, Part
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cache_folder import Identity
from kdbench.teachers.outputs import LiveTeacher
from kdbench.teachers.places import PlacedBatches
from kdbench.teachers.watch import Watch
from kdbench.utils.signals import Stop

pytestmark = [pytest.mark.once, pytest.mark.numerical]

NUM_IMAGES, SIZE = 42, 8
SMALL = Augmentation(pad=0, flip=True)
IDENTITY = Identity(network="x", weights="w", data="d", mean=(0.5,), std=(1.0,), pad=0, precision="fp32")
BOTH: tuple[Part, ...] = ("logits", "penultimate")
NETWORKS = ("resnet20", "timm:test_efficientnet", "timm:test_vit")
HELPERS = Path(__file__).parent.parent
"""Where modules lie that tests share."""
subsets = st.sets(st.integers(0, NUM_IMAGES * SMALL.num_views - 1), min_size=1, max_size=60)


def numbers(pairs: set[int]) -> np.ndarray:
    return np.array(sorted(pairs), dtype=np.int64)


def batches_of(pairs: np.ndarray, size: int) -> list[Tensor]:
    """The batches that a network is given."""
    given: list[Tensor] = []

    def forward(batch: Tensor) -> Mapping[Part, Tensor]:
        given.append(batch)
        return {"logits": batch[:, None]}

    placed = PlacedBatches(pairs, pairs // SMALL.num_views, size)
    rows = [placed.outputs(number, forward, ["logits"])["logits"].flatten() for number in range(len(placed))]
    assert torch.cat(rows).tolist() == pairs[placed.order].tolist()
    done = itertools.accumulate(map(len, rows), initial=0)
    assert [placed.begun(num) for num in done] == list(range(len(placed) + 1))
    return given


@given(subsets, st.integers(1, 20))
def test_batches_have_one_size_and_an_image_one_place(pairs: set[int], size: int) -> None:
    """Places that stay free are filled with pairs that have theirs elsewhere in the batch."""
    for batch in batches_of(numbers(pairs), size):
        assert len(batch) == size
        placed = [pair for place, pair in enumerate(batch.tolist()) if pair // SMALL.num_views % size == place]
        assert set(placed) == set(batch.tolist()) <= pairs


def test_few_places_stay_free() -> None:
    """1,437 images of which each has 5 to 9 of the views, as in the demo."""
    draw = np.random.default_rng(0)
    pairs = np.array([9 * image + view for image in range(1437) for view in range(draw.integers(5, 10))])
    placed = PlacedBatches(pairs, pairs // 9, 64)
    assert len(placed) * 64 < 1.15 * len(pairs)


def kernels(batch: Tensor) -> Mapping[Part, Tensor]:
    """A network whose outputs change with the size of a batch and the place in it, as those of real ones may do."""
    place = torch.arange(len(batch))[:, None]
    logits = batch[:, None] * torch.tensor([1.0, -0.5]) + 0.01 * place + 0.0001 * len(batch)
    return {"logits": logits, "penultimate": logits[:, :1] + 1}


class Stopping(Watch):
    """Stops a build when so many pairs are done."""

    def __init__(self, stop_at: int) -> None:
        self.stop, self.stop_at = Stop(), stop_at

    def progress(self, done: int, total: int, seconds_left: float) -> None:
        self.stop.signum = signal.SIGINT if done >= self.stop_at else None


@given(subsets, subsets, st.integers(0, 60))
@settings(deadline=None, max_examples=25)
def test_company_extension_and_interruption_change_nothing(pairs: set[int], others: set[int], stop_at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        alone, extended, at_once = (TeacherCache(Path(folder) / name, IDENTITY) for name in ("a", "b", "c"))
        alone.build(numbers(pairs), BOTH, kernels, batch=SIZE)
        at_once.build(numbers(pairs | others), BOTH, kernels, batch=SIZE)
        extended.build(numbers(others), ("logits",), kernels, batch=SIZE)
        stopping = Stopping(stop_at)
        while not extended.build(numbers(pairs), BOTH, kernels, batch=SIZE, watch=stopping, stop=stopping.stop):
            stop_at += SIZE
            stopping = Stopping(stop_at)
        for part in BOTH:
            for cache in (extended, at_once):
                assert torch.equal(cache.read(numbers(pairs), part), alone.read(numbers(pairs), part))


class Narrow(Backbone):
    """Seven features and five classes: so small that MKL adds up some places of a batch in another order."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.below, self.fc = nn.Linear(3 * 16 * 16, 7), nn.Linear(7, 5)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        return Features(self.below(images.flatten(1)), (), None, None)

    def head(self) -> nn.Linear:
        return self.fc


def teachers(dataset: ArrayDataset) -> dict[str, LiveTeacher]:
    protocol = tiny_protocol(dataset)
    sources = {name: make_source(name, protocol, dataset).live for name in NETWORKS}
    narrow = Net("narrow", Narrow(), mean=protocol.rules.data.mean, std=protocol.rules.data.std, image_size=(16, 16))
    teacher = dataclasses.replace(sources["resnet20"].teacher, net=narrow.eval().requires_grad_(False))
    return sources | {"narrow": LiveTeacher(teacher, "fp32", CPU)}


def compare_company(npz: str) -> None:
    """Build caches of 65 pairs, of them among others, and of both one after the other; 64 are a batch."""
    dataset = load_dataset(f"npz:{npz}", Path())
    data = DeviceData(dataset, tiny_protocol(dataset), CPU)
    ids = torch.randperm(42 * 18, generator=torch.Generator().manual_seed(0))
    image, number = ids // 18, ids % 18
    pairs = (image * data.images.numbering.num_views + number % 9 + 36 * (number // 9)).numpy()
    some, others = np.sort(pairs[:65]), np.sort(pairs[65:200])
    for name, live in teachers(dataset).items():
        with tempfile.TemporaryDirectory() as folder:
            identity = dataclasses.replace(IDENTITY, pad=1)
            caches = [TeacherCache(Path(folder) / which, identity) for which in ("alone", "among", "extended")]
            for cache, *wanted in zip(
                caches, (some, np.union1d(some, others), others), (some, some, some), strict=True
            ):
                for visits in wanted:
                    cache.build(visits, BOTH, lambda chunk, live=live: live.forward(data, chunk), batch=64)
            for part in BOTH:
                alone, *rest = (cache.read(some, part) for cache in caches)
                assert all(torch.equal(alone, values) for values in rest), (name, part)


@pytest.mark.parametrize("kernels", ["", "COMPATIBLE", "AVX2"])
def test_company_changes_no_bit_with_any_kernels_of_mkl(kernels: str, tiny_npz: Path) -> None:
    """In a process of its own: MKL reads the variable when it is first used."""
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    environment |= {"MKL_CBWR": kernels} if kernels else {}
    environment["PYTHONPATH"] = str(HELPERS)
    code = f"import test_places; test_places.compare_company({str(tiny_npz)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_which_parts_are_read_changes_no_bit(tiny_npz: Path) -> None:
    """Cells in lockstep share what any of them reads: one that needs maps must not change the logits of another."""
    dataset = load_dataset(f"npz:{tiny_npz}", Path())
    data = DeviceData(dataset, tiny_protocol(dataset), CPU)
    images = data.images.augment(torch.arange(16), torch.arange(16) % 9)
    for name, live in teachers(dataset).items():
        parts = frozenset(PARTS if live.net.has_preact else PARTS - {"stem", "preact", "map"})
        whole = live.outputs(images, parts)
        for reads in ({"logits"}, {"penultimate"}, {"logits", "penultimate"}):
            for part, values in live.outputs(images, frozenset(reads)).parts().items():
                assert torch.equal(values, whole.parts()[part]), (name, part)
