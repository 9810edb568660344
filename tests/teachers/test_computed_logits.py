"""A cache of a pool stores no logits where penultimate features are narrower, and records and tables say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cells import Typed, make_source
from digit_files import NAME, RULES, register
from image_folder import write_folder

from kdbench.data.batches import Batches
from kdbench.data.views import Augmentation, CropIds
from kdbench.engine.session import Session
from kdbench.method import ViewPlan
from kdbench.net import Part
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cache_folder import Identity
from kdbench.teachers.outputs import CachedReader, LiveReader, Query
from kdbench.teachers.pairs import PoolPairs, stored_parts

pytestmark = pytest.mark.once

CLASSES = [f"c{number:02}" for number in range(70)]
"""More than resnet8 has penultimate features, 64."""
ROTATIONS = ViewPlan((0, 1, 2, 3))
BOTH: frozenset[Part] = frozenset({"logits", "penultimate"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images"), CLASSES, train=2, val=1)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, RULES.replace("flip = false", "flip = true\npool = 1").replace("epochs = 2", "epochs = 1"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_are_computed_as_the_teacher_computes_them(precision: str, folder: Path, tmp_path: Path) -> None:
    session = Session.open(NAME, data=f"folder:{folder}", device="cpu", workers=0, precision=precision)
    live, data = make_source("resnet8", session.protocol, session.dataset).live, session.device_data
    cache = TeacherCache(tmp_path, Identity.of(live.teacher.card, session.protocol, session.dataset))
    cache.build(PoolPairs(140, 1, (0, 1, 2, 3)), ("penultimate",), Query(live, data), batch=64)
    assert {path.name for path in cache.folder.glob("*/*.npy")} == {"penultimate.npy"}
    batches = Batches(data, session.protocol, 1)
    batches.add(ROTATIONS)
    batches.begin(1)
    (group, *_) = batches.groups(0)
    images = batches.images(group, ROTATIONS)
    theirs = LiveReader(live, BOTH).outputs({None: images}, {})
    for reads in (BOTH, frozenset({"logits"}), frozenset({"penultimate"})):
        reader = CachedReader(cache, live, batches, ROTATIONS, reads)
        ours = reader.outputs({None: images}, reader.inputs(group)).parts()
        assert ours.keys() == reads
        for part in reads:
            values, expected = ours[part], theirs.parts()[part]
            assert values.dtype == expected.dtype  # type: ignore[union-attr]
            rounding = {"fp32": 1e-5, "bf16": 2**-6}[precision]
            torch.testing.assert_close(values, expected, rtol=rounding, atol=rounding * float(expected.abs().max()))  # type: ignore[union-attr, arg-type]


def test_records_and_tables_name_computed_logits(folder: Path, tmp_path: Path, typed: Typed) -> None:
    session = Session.open(NAME, data=f"folder:{folder}", runs=tmp_path / "runs", device="cpu", workers=0)
    session.train_teacher("resnet8")
    cells = {
        method: [session.cell(method=method, student="resnet8", teacher=teacher, seed=seed) for seed in (1, 2)]
        for method, teacher in (("kd", "resnet8"), ("ce", None))
    }
    words = {}
    for method, ours in cells.items():
        records = session.run_all(ours)
        assert all(isinstance(record, dict) for record in records), records
        words[method] = [record["cost"] for record in records]
    assert [cost["teacher_outputs"] for cost in words["kd"]] == ["cache"] * 2
    assert [cost.get("teacher_logits") for cost in words["kd"]] == ["from penultimate features"] * 2
    assert not any("teacher_logits" in cost for cost in words["ce"])
    code, out, err = typed("table", str(tmp_path / "runs"))
    assert code == 0, err
    note = (
        "kd: the teacher's logits were computed from penultimate features in a cache, equal to its own up to rounding"
    )
    assert note in " ".join(out.split())
    (live,) = session.run_all([session.cell(method="dkd", student="resnet8", teacher="resnet8", seed=1)], cache="off")
    assert isinstance(live, dict)
    assert "teacher_logits" not in live["cost"]
    assert note in " ".join(typed("table", str(tmp_path / "runs"))[1].split()), "of kd alone"


def test_only_a_pool_leaves_logits_out() -> None:
    narrow: dict[Part, int] = {"logits": 1000, "penultimate": 512}
    wide: dict[Part, int] = {"logits": 100, "penultimate": 256}
    logits: frozenset[Part] = frozenset({"logits"})
    for reads in (logits, BOTH):
        assert stored_parts(reads, CropIds(50), narrow) == {"penultimate"}
        assert stored_parts(reads, CropIds(50), wide) == reads
        for numbering in (CropIds(), Augmentation(pad=4, flip=True)):
            assert stored_parts(reads, numbering, narrow) == reads
