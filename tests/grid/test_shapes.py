"""What networks and rows of caches take, without building them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import CPU, make_teacher, tiny_protocol

from kdbench.data.batches import DeviceData
from kdbench.data.datasets import load_dataset
from kdbench.data.images import DataShape
from kdbench.data.views import Augmentation, CropIds, ViewIds
from kdbench.grid import cell_needs
from kdbench.grid.cache_needs import expected_pairs
from kdbench.grid.shapes import net_shape
from kdbench.method import PLAIN, ViewPlan
from kdbench.models import NETWORKS, build_backbone
from kdbench.models.build import build_net
from kdbench.teachers.demand import Visits
from kdbench.teachers.outputs import LiveTeacher

TURNS = ViewPlan((0, 1, 2, 3))
SEEN: dict[str, list[set[ViewPlan]]] = {
    "one seed, plain": [{PLAIN}],
    "three seeds, plain": [{PLAIN}, {PLAIN}, {PLAIN}],
    "turned": [{TURNS}, {TURNS}],
    "turned and plain share the plain view": [{PLAIN, TURNS}, {PLAIN}],
    "two crops of one turn share their flip": [{ViewPlan((0, 0, 2))}, {ViewPlan((0, 2, 2)), TURNS}],
}


NUMBERINGS = [
    *(Augmentation(pad=pad, flip=flip) for pad, flip in ((0, False), (0, True), (1, False), (1, True), (2, True))),
    *(CropIds(pool) for pool in (1, 3, 50, None)),
]


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
@pytest.mark.parametrize("numbering", NUMBERINGS, ids=str)
def test_the_expected_pairs_are_those_that_are_visited_on_average(
    seen: list[set[ViewPlan]], numbering: ViewIds
) -> None:
    """Images draw on their own: the mean of N counts is within five standard errors of the expectation."""
    num_images, epochs = 4000, 2
    visits = Visits(num_images, numbering)
    for seed, plans in enumerate(seen):
        for plan in plans:
            visits.add(seed, range(1, epochs + 1), plan)
    counts = np.bincount(numbering.split(torch.from_numpy(visits.pairs()))[0].numpy(), minlength=num_images)
    expected = expected_pairs(num_images, numbering, Counter(map(frozenset, epochs * seen))) / num_images
    assert abs(counts.mean() - expected) <= 5 * counts.std() / num_images**0.5 + 1e-9
    assert counts.var() <= expected, "what chance explains is judged by this bound"


@pytest.mark.parametrize("network", [*NETWORKS, "timm:test_resnet", "timm:test_vit", "timm:test_efficientnet"])
def test_a_network_without_values_has_the_shape_of_one_with_values(network: str) -> None:
    data = DataShape(10, (32, 32), 7)
    backbone = build_backbone(network, 7, (32, 32))
    found = net_shape(network, data)
    assert found.bytes == sum(values.nbytes for values in backbone.state_dict().values())
    assert found.row == {"logits": 4 * 7, "penultimate": 4 * backbone.head().in_features}


@pytest.mark.parametrize("network", ["vgg8", "timm:test_resnet", "timm:test_vit"])
def test_a_network_is_built_without_values(network: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(network, 7, (32, 32))
    assert all(values.is_meta for values in backbone.state_dict().values())


@pytest.mark.parametrize("network", ["resnet8", "timm:test_vit"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_of_a_cache_takes_the_bytes_that_the_teacher_says(network: str, precision: Any, tiny_npz: Path) -> None:
    dataset = load_dataset(f"npz:{tiny_npz}", Path())
    protocol = tiny_protocol(dataset, precision=precision)
    live = LiveTeacher(make_teacher(network, protocol, dataset), precision, CPU)
    said = live.forward(DeviceData(dataset, protocol, CPU), torch.arange(3))
    shape = net_shape(network, DataShape(42, (16, 16), 3), precision)
    assert shape.row == {part: values[0].nbytes for part, values in said.items()}


@pytest.mark.parametrize("network", ["resnet8", "wrn_16_1", "MobileNetV2", "timm:test_resnet", "timm:test_vit"])
def test_maps_without_values_have_the_shapes_of_those_with_values(network: str, tiny_npz: Path) -> None:
    dataset = load_dataset(f"npz:{tiny_npz}", Path())
    protocol = tiny_protocol(dataset)
    net = build_net(network, protocol, dataset, seed=0, purpose="student")
    found = cell_needs._net(network, dataset.shape)
    assert found
    assert (found.shapes, found.stem_shape, found.map_shape) == (net.shapes, net.stem_shape, net.map_shape)
