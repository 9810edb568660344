"""A damaged cache of a pool is named: by sizes when it is opened, by hashes and its teacher when it is checked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench.errors import UserError
from kdbench.net import Part
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cache_folder import Identity
from kdbench.teachers.cache_list import list_caches
from kdbench.teachers.pairs import PoolPairs
from kdbench.teachers.places import PoolForward

pytestmark = pytest.mark.once

BOTH: tuple[Part, ...] = ("logits", "penultimate")
POOL = PoolPairs(num_images=40, num_crops=3, rotations=(0,))
IDENTITY = Identity(
    network="resnet8",
    weights="w",
    data="d",
    mean=(0.5,),
    std=(1.0,),
    pad=None,
    precision="fp32",
    crop={"pool": POOL.num_crops},
)


class Teacher(PoolForward):
    """A teacher whose outputs are functions of the pair alone."""

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def __call__(self, pairs: Tensor) -> Mapping[Part, Tensor]:
        logits = self.sign * pairs[:, None] * torch.tensor([1.0, 0.5, -1.0])
        return {"logits": logits, "penultimate": logits[:, :2] + 1}

    def pool(self, pairs: PoolPairs, first: int, size: int, parts: frozenset[Part]) -> Iterator[Mapping[Part, Tensor]]:
        crops = torch.arange(pairs.num_images * pairs.num_crops).split(size)
        for numbers in crops[first // size :]:
            padded = torch.cat([numbers, numbers[:1].expand(size - len(numbers))])
            image, crop = padded // pairs.num_crops, padded % pairs.num_crops
            views = [self((4 * image + turns) * pairs.num_crops + crop) for turns in pairs.rotations]
            yield {part: torch.stack([view[part] for view in views]) for part in parts}


def built(runs: Path) -> TeacherCache:
    cache = TeacherCache(runs, IDENTITY)
    assert cache.build(POOL, BOTH, Teacher(), batch=16)
    pairs = POOL[torch.arange(len(POOL)).numpy()]
    assert all(torch.equal(cache.read(pairs, part), Teacher()(torch.from_numpy(pairs))[part]) for part in BOTH)
    assert cache.verify() == len(POOL)
    assert cache.check(Teacher()) == 32
    return cache


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes() + b"x"),
        lambda file: file.write_bytes(file.read_bytes().replace(b"<f4", b"<i4")),
        lambda file: file.unlink(),
        lambda file: os.truncate(file, 2**40),
    ],
)
def test_a_file_of_another_size_or_type_is_damage(damage: Callable[[Path], None], tmp_path: Path) -> None:
    cache = built(tmp_path)
    (file,) = cache.folder.glob("*/logits.npy")
    damage(file)
    with pytest.raises(UserError, match=r"is damaged .*kdbench cache prune"):
        TeacherCache(tmp_path, cache.identity)


@pytest.mark.parametrize(
    "pool",
    [
        *(None, {}, [], 3, {"images": 40, "crops": 3}, {"images": 40, "crops": 3, "rotations": []}),
        *({"images": 40, "crops": 3, "rotations": turns} for turns in ([4], [1, 0], [0, 0], ["0"], 0, [0, 1])),
        *({"images": images, "crops": 3, "rotations": [0]} for images in (0, -1, 41, 2**70, "40", 40.0, True)),
    ],
)
def test_a_description_that_does_not_fit_is_damage(pool: Any, tmp_path: Path) -> None:
    cache = built(tmp_path)
    (file,) = cache.folder.glob("*/segment.json")
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"pool": pool}))
    with pytest.raises(UserError, match=r"is damaged .*kdbench cache prune"):
        TeacherCache(tmp_path, cache.identity)
    assert list_caches(tmp_path)[0].segments == 1


@pytest.mark.parametrize("name", ["logits.npy", "penultimate.npy"])
def test_a_flipped_bit_is_found_by_hashes(name: str, tmp_path: Path) -> None:
    cache = built(tmp_path)
    (file,) = cache.folder.glob(f"*/{name}")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file.parent} is damaged \({name} is not what was written\)"):
        TeacherCache(tmp_path, IDENTITY).verify()
    file.unlink()
    with pytest.raises(UserError, match=r"is damaged .*No such file"):
        cache.verify()


@pytest.mark.parametrize("sign", [-1.0, float("nan"), float("inf")])
def test_outputs_of_another_teacher_are_found_by_a_query(sign: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not hold its teacher's outputs"):
        built(tmp_path).check(Teacher(sign))
