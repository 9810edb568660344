"""All crops of a pool stand for a list of pairs that is never made."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbench.data.batches import DeviceData
from kdbench.data.fabricated import FabricatedDataset, shape_of
from kdbench.data.views import CropIds
from kdbench.experiment.protocol import load_protocol
from kdbench.method import PLAIN, ViewPlan
from kdbench.teachers.demand import Wanted, visited
from kdbench.teachers.pairs import PoolPairs, find, lacking
from kdbench.teachers.places import PoolBatches

pytestmark = pytest.mark.once

ROTATIONS = ViewPlan((0, 1, 2, 3))
pools = st.builds(
    PoolPairs,
    st.integers(1, 12),
    st.integers(1, 7),
    st.sets(st.integers(0, 3), min_size=1).map(lambda turns: tuple(sorted(turns))),
)


def listed(pool: PoolPairs) -> np.ndarray:
    """The pairs of a pool, literally: image, then rotation, then crop."""
    numbering = CropIds(pool.num_crops)
    return np.array(
        [
            image * numbering.num_views + turns * pool.num_crops + crop
            for image in range(pool.num_images)
            for turns in pool.rotations
            for crop in range(pool.num_crops)
        ]
    )


@given(pools)
def test_a_pool_is_the_array_that_it_stands_for(pool: PoolPairs) -> None:
    pairs = listed(pool)
    assert len(pool) == len(pairs)
    assert pool[np.arange(len(pool))].tolist() == pairs.tolist() == sorted(pairs.tolist())
    every = np.arange((pool.num_images + 1) * 4 * pool.num_crops)
    rows, there = pool.find(every)
    others, also = find(pairs, every)
    assert there.tolist() == also.tolist()
    assert rows[there].tolist() == others[also].tolist()


@given(pools, st.integers(1, 20))
def test_batches_of_a_pool_hold_every_pair_once_and_a_crop_has_one_place(pool: PoolPairs, size: int) -> None:
    batches, num_rotations = PoolBatches(pool, size), len(pool.rotations)
    order = batches.rows(0, len(pool))
    assert sorted(order.tolist()) == list(range(len(pool)))
    pairs, done = pool[order], 0
    for number in range(len(batches)):
        assert batches.begun(done) == number
        count = min(size, pool.num_images * pool.num_crops - number * size)
        upper, crop = np.divmod(pairs[done : done + count * num_rotations], pool.num_crops)
        image, turns = np.divmod(upper, 4)
        numbers = np.arange(number * size, number * size + count)
        assert (image * pool.num_crops + crop).tolist() == num_rotations * numbers.tolist()
        assert turns.tolist() == np.repeat(pool.rotations, count).tolist()
        assert batches.rows(done, done + count).tolist() == order[done : done + count].tolist()
        done += count * num_rotations
    assert batches.begun(done) == len(batches)


@given(pools, st.sets(st.integers(0, 3), min_size=1))
def test_a_pool_lacks_rotations(pool: PoolPairs, turns: set[int]) -> None:
    stored = PoolPairs(pool.num_images, pool.num_crops, tuple(sorted(turns)))
    left = lacking(pool, stored)
    assert isinstance(left, PoolPairs)
    assert listed(left).tolist() == sorted(set(listed(pool).tolist()) - set(listed(stored).tolist()))
    assert lacking(pool, listed(pool)) == pool


def test_nothing_grows_with_images_and_views() -> None:
    """1.28 million images with 50 crops in 4 rotations: 256 million pairs, of which a list would have 2 GB."""
    pool = PoolPairs.of(CropIds(50), 1_281_167, [PLAIN, ROTATIONS])
    assert pool == PoolPairs(1_281_167, 50, (0, 1, 2, 3))
    assert len(pickle.dumps(pool)) < 500
    protocol = load_protocol("imagenet-crd-pool50-v1")
    shape = shape_of(protocol)
    assert shape
    data = DeviceData(FabricatedDataset("imagenet", shape), protocol, torch.device("cpu"))
    tracemalloc.start()
    try:
        batches = PoolBatches(pool, 1024)
        assert batches.begun(4 * 1024 * 1000) == 1000
        assert len(batches.rows(200_000_000, 200_000_000 + 16_384)) == 16_384
        assert lacking(pool, PoolPairs(1_281_167, 50, (0,))) == PoolPairs(1_281_167, 50, (1, 2, 3))
        assert visited([Wanted(1, ROTATIONS, frozenset(), range(1, 101))], data) == pool
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
