"""A cache of a pool: all crops of all images, each image decoded once, built, resumed and checked."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import Typed
from digit_files import NAME, RULES, register, write_digits
from test_pool_pairs import listed

from kdbench.data.decoding.streamed import StreamedImages
from kdbench.data.files.listing import Listing
from kdbench.engine.session import Session
from kdbench.errors import Interrupted
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import RECORD
from kdbench.net import Part
from kdbench.teachers import cache as teacher_cache
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cache_list import list_caches
from kdbench.teachers.demand import Wanted
from kdbench.teachers.outputs import Query
from kdbench.teachers.pairs import PoolPairs
from kdbench.teachers.plan import Demand
from kdbench.teachers.watch import Watch

pytestmark = pytest.mark.once

NUM_IMAGES, POOL = 40, 3
POOLED = RULES.replace("flip = false", f"flip = true\npool = {POOL}")
BOTH: frozenset[Part] = frozenset({"logits", "penultimate"})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def session(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    register(monkeypatch, POOLED)
    opened = Session.open(NAME, data=f"folder:{digits}", runs=tmp_path / "runs", device="cpu", workers=0)
    opened.train_teacher("resnet8")
    return opened


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each training image is read, by its position."""
    counted: Counter[int] = Counter()
    read = Listing.read

    def note(listing: Listing, index: int) -> bytes:
        if len(listing) == NUM_IMAGES:
            counted[index] += 1
        return read(listing, index)

    monkeypatch.setattr(Listing, "read", note)
    return counted


def query(session: Session) -> Query:
    return Query(session.teachers.live(card(session)), session.device_data)


def card(session: Session) -> Any:
    return session.teachers.card(cell(session, "kd").teacher)  # type: ignore[arg-type]


def cell(session: Session, method: str, seed: int = 1) -> Cell:
    return session.cell(method=method, student="resnet8", teacher="resnet8", seed=seed)


def build(session: Session, *rotations: int, size: int = 8, **options: Any) -> TeacherCache:
    """Build a cache in batches of a size, or resume building it."""
    cache = session.teachers.cache(card(session))
    cache.build(PoolPairs(NUM_IMAGES, POOL, rotations), sorted(BOTH), query(session), batch=size, **options)
    return cache


def literal(session: Session, turns: int, size: int = 8) -> dict[Part, torch.Tensor]:
    """What the live teacher says of all crops in one rotation, image after image, in batches of a size."""
    images, live = session.device_data.images, session.teachers.live(card(session))
    numbers = torch.arange(NUM_IMAGES * POOL)
    pairs = images.numbering.pair(numbers // POOL, turns * POOL + numbers % POOL)
    batches = [live.outputs(images.views(part), BOTH).parts() for part in pairs.split(size)]
    return {part: torch.cat([batch[part] for batch in batches]) for part in BOTH}  # type: ignore[misc]


def extra(reads: Counter[int]) -> dict[int, int]:
    return {index: reads[index] - 1 for index in range(NUM_IMAGES) if reads[index] != 1}


def test_what_is_read_is_what_the_live_teacher_says_to_the_bit(session: Session) -> None:
    """In other rows and other company, and after the cache has grown."""
    build(session, 0)
    cache = build(session, 0, 2, 3)
    assert [info.segments for info in list_caches(session.runs)] == [2]
    mixed = np.random.default_rng(0).permutation(listed(PoolPairs(NUM_IMAGES, POOL, (0, 2, 3))))
    for opened in (cache, TeacherCache(session.runs, cache.identity)):
        for part in BOTH:
            values = opened.read(mixed, part)
            for turns in (0, 2, 3):
                chosen = mixed // POOL % 4 == turns
                numbers = mixed[chosen] // (4 * POOL) * POOL + mixed[chosen] % POOL
                assert torch.equal(values[torch.from_numpy(chosen)], literal(session, turns)[part][numbers])


def test_an_image_is_decoded_once_for_all_its_views(session: Session, reads: Counter[int]) -> None:
    """But for the first batch, which is made twice more to measure the speed; 5 images are decoded at a time."""
    build(session, 0, 1, 2, 3)
    assert extra(reads) == dict.fromkeys(range(5), 2)


def test_processes_change_no_byte(session: Session, digits: Path) -> None:
    several = Session.open(NAME, data=f"folder:{digits}", runs=session.runs, device="cpu", workers=2)
    images = several.device_data.images
    assert isinstance(images, StreamedImages)
    for first, size in ((0, 64), (7, 8), (119, 1)):
        expected = list(session.device_data.images.pool(first, size))  # type: ignore[attr-defined]
        assert len(expected) == -(-(NUM_IMAGES * POOL - first) // size)
        assert torch.equal(torch.stack(list(images.pool(first, size))), torch.stack(expected))
        next(images.pool(first, size))  # what is begun may be given up
    images.loader.close()


def interrupted(session: Session, done: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kill a build when so many pairs are done, all of them noted; return the folder that it leaves."""
    monkeypatch.setattr(teacher_cache, "_SAVE_EVERY", 0.0)

    class Killed(Watch):
        def progress(self, done_: int, total: int, seconds_left: float) -> None:
            if done_ > done:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        build(session, 0, 1, watch=Killed())
    (partial,) = session.runs.glob("teacher-cache/*/*.partial")
    assert json.loads((partial / "progress.json").read_bytes())["done"] == done
    return partial


def test_an_interrupted_build_resumes(session: Session, reads: Counter[int], monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(session, 5 * 16, monkeypatch)
    reads.clear()
    cache = build(session, 0, 1)
    # 5 batches of 8 crops are done, which are 13 images and one crop of the next.
    assert extra(reads) == dict.fromkeys(range(5), 1) | dict.fromkeys(range(5, 13), -1)
    for turns in (0, 1):
        pairs = listed(PoolPairs(NUM_IMAGES, POOL, (turns,)))
        assert all(torch.equal(cache.read(pairs, part), literal(session, turns)[part]) for part in BOTH)
    assert [(info.segments, info.unfinished) for info in list_caches(session.runs)] == [(1, 0)]


def test_a_build_whose_files_changed_begins_anew(
    session: Session, reads: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(interrupted(session, 5 * 16, monkeypatch) / "logits.npy")
    reads.clear()
    cache = build(session, 0, 1)
    assert extra(reads) == dict.fromkeys(range(5), 2)
    assert torch.equal(cache.read(listed(PoolPairs(NUM_IMAGES, POOL, (1,))), "logits"), literal(session, 1)["logits"])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_signal_keeps_what_is_built(session: Session) -> None:
    class Signal(Watch):
        def progress(self, done: int, total: int, seconds_left: float) -> None:
            if done < total:
                os.kill(os.getpid(), signal.SIGTERM)

    demand = Demand.of(session.teachers, card(session), [Wanted.by(cell(session, "kd"))])
    with pytest.raises(Interrupted, match="type the same command to resume"):
        demand.build(session.teachers, Signal())
    assert [info.unfinished for info in list_caches(session.runs)] == [1]
    assert demand.build(session.teachers, Watch()).missing(demand.pairs, demand.parts).keys() == {"logits"}
    assert [(info.pairs, info.unfinished) for info in list_caches(session.runs)] == [(NUM_IMAGES * POOL, 0)]


def kinds(records: list[Any]) -> list[Any]:
    assert all(isinstance(record, dict) for record in records), records
    return [record["cost"]["teacher_outputs"] for record in records]


def test_auto_builds_where_crops_come_again_and_rotations_are_added(session: Session, reads: Counter[int]) -> None:
    """An epoch of a seed draws one of 3 crops; teacher outputs of a lockstep group are computed once."""
    assert kinds(session.run_all([cell(session, "kd")])) == ["live"]  # 2 epochs, 3 crops
    assert kinds(session.run_all([cell(session, "kd", seed) for seed in (2, 3)])) == ["cache", "cache"]
    (info,) = list_caches(session.runs)
    assert (info.pairs, info.parts, info.segments) == (NUM_IMAGES * POOL, ("logits",), 1)
    assert kinds(session.run_all([cell(session, "dkd", 4)])) == ["cache"]  # no seed needs more
    assert kinds(session.run_all([cell(session, "pckd", seed) for seed in (1, 2)])) == ["cache"] * 2
    infos = list_caches(session.runs)
    assert sum(info.pairs for info in infos) >= 4 * NUM_IMAGES * POOL
    rotations = [
        json.loads(path.read_bytes())["pool"]["rotations"]
        for path in session.runs.glob("teacher-cache/*/*/segment.json")
    ]
    assert {turns for each in rotations for turns in each} == {0, 1, 2, 3}


def test_no_cache_is_built_that_half_the_disk_cannot_hold(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    demanded = NUM_IMAGES * POOL * 10 * 4
    for free, kind in ((2 * demanded, "live"), (2 * demanded + 1, "cache")):
        monkeypatch.setattr("kdbench.teachers.plan.free_space", lambda _, free=free: free)
        assert kinds(session.run_all([cell(session, "kd", seed) for seed in range(2, 5)])) == [kind] * 3
        for path in session.runs.glob(f"**/{RECORD}"):
            path.unlink()


@pytest.mark.parametrize("name", ["logits.npy", "penultimate.npy"])
def test_a_damaged_file_is_named_by_a_check(name: str, session: Session, digits: Path, typed: Typed) -> None:
    words = ["--protocol", NAME, "--data", f"folder:{digits}", "--device", "cpu", "--workers", "0"]
    words += ["--runs", str(session.runs), "--teacher", "resnet8"]
    code, _, err = typed("cache", "check", *words)
    assert code == 2
    assert "has no cache" in err
    cache = build(session, 0, size=64)
    code, out, err = typed("cache", "check", *words)
    assert code == 0, err
    assert "120 views; 32 of them were queried again" in out.replace("\n", " ")
    (file,) = cache.folder.glob(f"*/{name}")
    flip(file)
    TeacherCache(session.runs, cache.identity)  # files of hundreds of gigabytes are not hashed each time
    code, _, err = typed("cache", "check", *words)
    assert code == 2
    assert f"is damaged ({name} is not what was written)" in err.replace("\n", " ")
    assert "kdbench cache prune" in err
