"""The teacher is asked once for each pair of image and view, and cells cannot tell the difference."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdbench.data.views import Augmentation
from kdbench.errors import UserError
from kdbench.method import PLAIN, ViewPlan
from kdbench.net import Part
from kdbench.teachers import cache as teacher_cache
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cache_folder import Identity
from kdbench.teachers.cache_list import list_caches, remove_cache
from kdbench.teachers.demand import Visits
from kdbench.teachers.watch import Estimate, Watch
from kdbench.utils import files
from kdbench.utils.signals import Stop

pytestmark = pytest.mark.once

ROTATIONS = ViewPlan((0, 1, 2, 3))
SMALL = Augmentation(pad=1, flip=True)
IDENTITY = Identity(
    network="resnet8",
    weights="w",
    data="d",
    mean=(0.5, 0.5, 0.5),
    std=(1.0, 1.0, 1.0),
    pad=1,
    precision="fp32",
)
BOTH: tuple[Part, ...] = ("logits", "penultimate")


class Counted:
    """A teacher whose outputs are functions of the pair alone; counts what it is asked for."""

    def __init__(self, dtype: torch.dtype = torch.float32, fail_after: int | None = None) -> None:
        self.asked: list[int] = []
        self.dtype, self.fail_after = dtype, fail_after

    def __call__(self, pairs: Tensor) -> Mapping[Part, Tensor]:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise RuntimeError("killed")
        self.asked += pairs.tolist()
        logits = pairs[:, None] * torch.tensor([1.0, 0.5, -1.0]) / 64
        return {"logits": logits.to(self.dtype), "penultimate": (logits[:, :2] + 1).to(self.dtype)}


def visited(seeds: range = range(1, 3), plan: ViewPlan = PLAIN, epochs: int = 3) -> np.ndarray:
    visits = Visits(42, SMALL)
    for seed in seeds:
        visits.add(seed, range(1, epochs + 1), plan)
    return visits.pairs()


def asked_for(teacher: Counted, size: int) -> list[int]:
    """Pairs for which a teacher was queried, once in the place of their image, in batches of a size.

    The first two calls measure the speed; other places are filled with any pair.
    """
    chunks = torch.tensor(teacher.asked[2 * size :]).view(-1, size)
    index, _ = SMALL.split(chunks)
    return sorted(chunks[index % size == torch.arange(size)].tolist())


def test_visits_are_what_seeds_and_epochs_see() -> None:
    literal = set()
    for seed in (1, 2):
        for epoch in (1, 2, 3):
            for row in SMALL.draw(seed, epoch, 42, ROTATIONS).tolist():
                literal |= {image * SMALL.num_views + view for image, view in enumerate(row)}
    assert visited(plan=ROTATIONS).tolist() == sorted(literal)
    index, view = SMALL.split(torch.from_numpy(visited()))
    assert set(index.tolist()) == set(range(42))
    assert torch.equal(SMALL.pair(index, view), torch.from_numpy(visited()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_read_is_what_was_said(dtype: torch.dtype, tmp_path: Path) -> None:
    cache, teacher, pairs = TeacherCache(tmp_path, IDENTITY), Counted(dtype), visited()
    assert cache.build(pairs, BOTH, teacher, batch=10)
    some = np.random.default_rng(0).permutation(pairs)[:50]
    for opened in (cache, TeacherCache(tmp_path, IDENTITY)):
        for part in BOTH:
            read = opened.read(some, part)
            assert read.dtype == dtype
            assert torch.equal(read, teacher(torch.from_numpy(some))[part])


def test_every_pair_is_asked_for_once_however_the_grid_grows(tmp_path: Path) -> None:
    cache, teacher = TeacherCache(tmp_path, IDENTITY), Counted()
    first = visited(range(1, 3))
    cache.build(first, ("logits",), teacher, batch=16)
    assert asked_for(teacher, 16) == first.tolist()
    teacher.asked.clear()
    assert cache.build(first, ("logits",), teacher, batch=16)
    assert not teacher.asked
    more = visited(range(1, 5), ROTATIONS)
    new = sorted(set(more.tolist()) - set(first.tolist()))
    cache.build(more, ("logits",), teacher, batch=16)
    assert asked_for(teacher, 16) == new
    assert torch.equal(cache.read(more[::-1].copy(), "logits"), teacher(torch.from_numpy(more[::-1].copy()))["logits"])
    missing = cache.missing(more, BOTH)
    assert not len(missing["logits"])
    assert missing["penultimate"].tolist() == more.tolist()
    cache.build(more, BOTH, teacher, batch=16)
    assert torch.equal(cache.read(more, "penultimate"), teacher(torch.from_numpy(more))["penultimate"])


@pytest.mark.parametrize(
    "change",
    [
        *({"weights": "x"}, {"data": "x"}, {"mean": (0.4, 0.5, 0.5)}, {"std": (2.0, 1.0, 1.0)}),
        *({"pad": 2}, {"precision": "bf16"}, {"network": "vgg8"}, {"version": 0}),
    ],
)
def test_a_cache_of_another_identity_is_never_used(change: dict[str, Any], tmp_path: Path) -> None:
    TeacherCache(tmp_path, IDENTITY).build(visited(), ("logits",), Counted(), batch=64)
    other = TeacherCache(tmp_path, dataclasses.replace(IDENTITY, **change))
    assert other.missing(visited(), ("logits",))["logits"].tolist() == visited().tolist()


def test_an_unfinished_build_is_not_seen_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_cache, "_SAVE_EVERY", 0.0)
    pairs = visited()
    with pytest.raises(RuntimeError, match="killed"):
        TeacherCache(tmp_path, IDENTITY).build(pairs, BOTH, Counted(fail_after=60), batch=10)
    cache, teacher = TeacherCache(tmp_path, IDENTITY), Counted()
    assert len(cache.missing(pairs, ("logits",))["logits"]) == len(pairs)
    (partial,) = cache.folder.glob("*.partial")
    with (partial / "logits.npy").open("ab") as file:
        file.write(b"half a row")
    cache.build(pairs, BOTH, teacher, batch=10)
    assert len(asked_for(teacher, 10)) == len(pairs) - 40  # each image has several pairs: the first batches are full
    for part in BOTH:
        assert torch.equal(cache.read(pairs, part), teacher(torch.from_numpy(pairs))[part])
    assert not list(cache.folder.glob("*.partial"))
    assert [info.unfinished for info in list_caches(tmp_path)] == [0]


def test_a_wish_to_stop_keeps_what_is_built(tmp_path: Path) -> None:
    cache, teacher, stop = TeacherCache(tmp_path, IDENTITY), Counted(), Stop()

    class Wish(Watch):
        def progress(self, done: int, total: int, seconds_left: float) -> None:
            assert seconds_left >= 0
            if done >= 30:
                stop.signum = signal.SIGINT

    assert not cache.build(visited(), BOTH, teacher, batch=10, watch=Wish(), stop=stop)
    assert cache.build(visited(), BOTH, Counted(), batch=10)


def test_what_does_not_fit_is_refused_with_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    pairs = visited()
    needed = len(pairs) * (8 + 5 * 4)
    with pytest.raises(UserError, match=rf"needs {needed / 1000:.1f} kB in .* but 1\.0 kB are free.*--cache off"):
        TeacherCache(tmp_path, IDENTITY).build(pairs, BOTH, Counted(), batch=10)
    assert list_caches(tmp_path)[0].pairs == 0


def test_the_estimate_is_what_is_written(tmp_path: Path) -> None:
    told: list[Estimate] = []

    class Told(Watch):
        def estimate(self, teacher: str, estimate: Estimate) -> None:
            assert teacher == "resnet8@12345678"
            told.append(estimate)

    cache = TeacherCache(tmp_path, IDENTITY)
    cache.build(visited(), BOTH, Counted(), batch=10, name="resnet8@12345678", watch=Told())
    assert told[0].views == len(visited())
    (segment,) = (path.parent for path in cache.folder.glob("*/segment.json"))
    written = sum((segment / name).stat().st_size for name in ("pairs.npy", "logits.npy", "penultimate.npy"))
    assert 0 <= written - told[0].bytes <= 3 * 128  # the headers


@pytest.mark.parametrize("damage", ["flip", "cut", "description", "missing"])
def test_a_damaged_cache_is_named_and_not_used(damage: str, tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, IDENTITY)
    cache.build(visited(), ("logits",), Counted(), batch=64)
    (file,) = cache.folder.glob("*/logits.npy")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-5] ^= 1
    if damage == "missing":
        file.unlink()
    elif damage == "description":
        file.with_name("segment.json").write_text("{")
    else:
        file.write_bytes(content[:-4] if damage == "cut" else content)
    with pytest.raises(UserError, match=f"is damaged .*kdbench cache prune {cache.folder.name}"):
        TeacherCache(tmp_path, IDENTITY)


def test_a_cache_that_is_not_its_teachers_is_found_out(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, IDENTITY)
    cache.build(visited(), BOTH, Counted(), batch=64)
    cache.check(Counted())
    with pytest.raises(UserError, match="does not hold its teacher's outputs"):
        cache.check(lambda pairs: {part: -values for part, values in Counted()(pairs).items()})


def in_children(num: int, work: Callable[[int], None]) -> list[int]:
    """Run work in forked processes at once; returns how they ended."""
    pids = []
    for number in range(num):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work(number)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def test_of_several_processes_one_builds(tmp_path: Path) -> None:
    pairs = visited()

    def build(number: int) -> None:
        teacher = Counted()
        assert TeacherCache(tmp_path, IDENTITY).build(pairs, ("logits",), teacher, batch=5)
        (tmp_path / f"asked{number}").write_text(json.dumps(asked_for(teacher, 5) if teacher.asked else []))

    assert in_children(3, build) == [0, 0, 0]
    asked = [json.loads((tmp_path / f"asked{number}").read_text()) for number in range(3)]
    assert sorted(map(len, asked)) == [0, 0, len(pairs)]
    assert len(list_caches(tmp_path)[0].name) > 0


def test_a_cache_in_use_is_left_alone(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, IDENTITY)
    cache.build(visited(), ("logits",), Counted(), batch=64)
    name = cache.folder.name
    assert remove_cache(tmp_path, name) is None
    del cache
    freed = remove_cache(tmp_path, name)
    assert freed is not None
    assert freed > 0
    assert list_caches(tmp_path) == []
