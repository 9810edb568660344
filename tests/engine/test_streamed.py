"""Cells on image files: results do not depend on who decodes, on other cells, or on an interruption."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Typed
from digit_files import NAME, RULES, register, write_digits

from kdbench.data.batches import Batches
from kdbench.data.decoding.streamed import StreamedDataset
from kdbench.data.images import Unread
from kdbench.engine.lockstep import Lockstep
from kdbench.engine.session import Session
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.folder import FAILURE, RECORD, WEIGHTS
from kdbench.method import PLAIN, ViewPlan
from kdbench.models.weights import read_weights
from kdbench.teachers.outputs import LiveTeacher
from kdbench.utils.text import size

ROTATIONS = ViewPlan((0, 1, 2, 3))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def opened(digits: Path, runs: Path, workers: int = 0) -> Session:
    return Session.open(NAME, data=f"folder:{digits}", runs=runs, device="cpu", workers=workers)


def trained(session: Session, *methods: str, **options: Any) -> dict[str, dict[str, Any]]:
    cells = [session.cell(method=name, student="resnet8", teacher="resnet8", seed=1) for name in methods]
    records = session.run_all(cells, **options)
    assert all(isinstance(record, dict) for record in records), records
    return dict(zip(methods, records, strict=True))  # type: ignore[arg-type]


def test_a_cell_has_the_result_that_it_has_alone(digits: Path, tmp_path: Path) -> None:
    """Beside methods with more views, with processes or without, and whatever they remember."""
    together, alone = opened(digits, tmp_path / "together", workers=2), opened(digits, tmp_path / "alone")
    for session in (together, alone):
        session.train_teacher("resnet8")
    several = trained(together, "kd", "pckd", "crd", "mlld")
    for method, record in several.items():
        assert record["weights"] == trained(alone, method)[method]["weights"], method
    assert several["kd"]["cost"]["teacher_outputs"] == "live"


def test_a_stopped_cell_resumes_to_the_bit(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(opened(digits, tmp_path / "whole"), "ce")["ce"]
    session = opened(digits, tmp_path / "stopped", workers=1)
    tick, steps = Lockstep.tick, []

    def stop(self: Lockstep, step: int, joined: list[Any]) -> None:
        tick(self, step, joined)
        steps.append(step)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Lockstep, "tick", stop)
    with pytest.raises(Interrupted, match="saved in epoch 1 after step 2"):
        trained(session, "ce")
    assert trained(session, "ce")["ce"]["weights"] == whole["weights"]
    assert steps == [0, 1, 2, 0, 1, 2]


def test_with_a_pool_a_cache_serves_every_seed(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, RULES.replace("flip = false", "flip = true\npool = 2"))
    session = opened(digits, tmp_path)
    session.train_teacher("resnet8")
    cells = [
        session.cell(method="kd", student="resnet8", teacher="resnet8", seed=seed, settings={"temperature": 3.0})
        for seed in (1, 2, 3)
    ]
    records = session.run_all(cells)
    assert [record["cost"]["teacher_outputs"] for record in records] == ["cache"] * 3  # type: ignore[index]
    live = opened(digits, tmp_path)
    for cell, record in zip(cells, records, strict=True):
        assert isinstance(record, dict)
        weights = read_weights(cell.folder(tmp_path) / WEIGHTS)
        (cell.folder(tmp_path) / RECORD).unlink()
        live.run_all([cell], cache="off")
        for name, value in read_weights(cell.folder(tmp_path) / WEIGHTS).items():
            torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-4)


def test_views_of_an_image_are_rotations_of_one_crop(digits: Path, tmp_path: Path) -> None:
    session = opened(digits, tmp_path)
    batches = Batches(session.device_data, session.protocol, 1)
    batches.add(ROTATIONS)
    batches.begin(1)
    for group in batches.groups(0):
        views = batches.images(group, ROTATIONS).unflatten(0, (4, -1))
        assert torch.equal(views[0], batches.images(group, PLAIN))
        for turns in range(4):
            assert torch.equal(views[turns], views[0].rot90(turns, (2, 3)))
        ids = batches.views.ids(ROTATIONS, group.index)
        pairs = session.device_data.images.numbering.pair(group.index, ids).flatten()
        assert torch.equal(session.device_data.images.views(pairs), views.flatten(0, 1))


def test_groups_may_be_looked_up_in_any_order(digits: Path, tmp_path: Path) -> None:
    session = opened(digits, tmp_path, workers=1)
    batches = Batches(session.device_data, session.protocol, 1)
    batches.add(PLAIN)
    batches.begin(2)
    groups = [group for step in range(batches.steps) for group in batches.groups(step)]
    views = [batches.images(group, PLAIN) for group in groups]
    for place in (0, 3, 1, 4):
        assert torch.equal(batches.images(groups[place], PLAIN), views[place])


def test_a_broken_image_ends_the_cell_by_name(tmp_path: Path) -> None:
    digits = write_digits(tmp_path / "digits", train=2)
    path = sorted((digits / "train" / "3").iterdir())[0]
    path.write_bytes(b"no image".ljust(path.stat().st_size, b"!"))
    session = opened(digits, tmp_path / "runs")
    cells = [session.cell(method="ce", student=student, seed=1) for student in ("resnet8", "resnet14")]
    for outcome in session.run_all(cells):
        assert isinstance(outcome, UserError)
        assert f"train/3/{path.name} is no image" in str(outcome)
    failure = json.loads((cells[0].folder(tmp_path / "runs") / FAILURE).read_text())
    assert path.name in failure["text"]


def test_a_disk_that_is_away_loses_a_cell_and_fails_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.data.decoding.decode.PAUSES", (0, 0))
    digits = write_digits(tmp_path / "digits", train=2)
    session = opened(digits, tmp_path / "runs")
    cell = session.cell(method="ce", student="resnet8", seed=1)
    for split in ("train", "val"):
        (digits / split).rename(tmp_path / "away")
        (outcome,) = session.run_all([cell])
        (tmp_path / "away").rename(digits / split)
        assert isinstance(outcome, Unread)
        assert re.search(rf"cannot be read \(.*{split}/\d/\d+\.jpg.*\): when they can, type the same", str(outcome))
        assert not (cell.folder(tmp_path / "runs") / FAILURE).exists()
    assert isinstance(session.run_all([cell])[0], dict)


def test_own_images_are_asked_for(tmp_path: Path, tiny_npz: Path) -> None:
    with pytest.raises(UserError, match="this protocol is for images of your own: type --data folder:DIR"):
        Session.open(NAME, runs=tmp_path, device="cpu")
    with pytest.raises(UserError, match=r"crops and resizes image files, and npz:\S+ is an array: give --data folder"):
        _ = Session.open(NAME, data=f"npz:{tiny_npz}", runs=tmp_path, device="cpu").device_data


def test_images_of_one_size_stay_in_memory_under_rules_for_small_images(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"007.jpg is 18 x 22 pixels, and others 18 x 20: this protocol keeps images in memory"
    ):
        Session.open("digits-demo-v1", data=f"folder:{digits}", runs=tmp_path, device="cpu")


def test_the_commands_take_image_files(digits: Path, typed: Typed) -> None:
    words = ["--protocol", NAME, "--data", f"folder:{digits}", "--device", "cpu", "--workers", "1"]
    code, out, err = typed("teacher", "train", *words, "--network", "resnet8")
    assert code == 0, out + err
    code, out, err = typed(
        "train", *words, "--teacher", "resnet8", "--student", "resnet8", "--method", "kd", "--method", "pckd"
    )
    assert code == 0, out + err
    records = [json.loads(path.read_text()) for path in Path("runs").glob(f"{NAME}/*/*/seed*/{RECORD}")]
    assert {record["method"] for record in records} == {"ce", "kd", "pckd"}
    dataset = Session.open(NAME, data=f"folder:{digits}", device="cpu").dataset
    assert isinstance(dataset, StreamedDataset)
    assert {record["dataset"] for record in records} == {f"folder:{dataset.fingerprint[:16]}"}
    assert {record["data_fingerprint"] for record in records} == {dataset.fingerprint}
    code, out, err = typed("table", "runs")
    assert code == 0, out + err
    for workers in ("-1", "513", "x"):
        code, _, err = typed("train", *words[:-1], workers, "--student", "resnet8", "--method", "ce")
        assert (code, "--workers" in err) == (2, True)


@pytest.mark.parametrize(("method", "num_views"), [("kd", 1), ("mlld", 2)])
def test_too_small_a_shared_memory_is_one_line_before_the_teacher_is_queried(
    method: str, num_views: int, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no failure of the cell; with strong views, more is needed."""
    opened(digits, tmp_path).train_teacher("resnet8")
    batch, queried = 8 * 3 * 16 * 16, []
    needed = (2 * 2 + 2) * batch * num_views
    monkeypatch.setattr("kdbench.data.decoding.loader.free_shared_memory", lambda: needed - 1)
    monkeypatch.setattr(LiveTeacher, "outputs", lambda *_: queried.append(1))
    monkeypatch.setattr("kdbench.data.decoding.streamed._EVALUATED", 8)
    session = opened(digits, tmp_path, workers=2)
    cell = session.cell(method=method, student="resnet8", teacher="resnet8", seed=1)
    (outcome,) = session.run_all([cell])
    assert isinstance(outcome, Unread)
    text = f"2 workers need {size(needed)} of /dev/shm for batches of {size(batch * num_views)}, "
    assert str(outcome).startswith(text)
    assert "type --workers 1, or give the job" in str(outcome)
    assert not queried
    assert not (cell.folder(tmp_path) / FAILURE).exists()


def test_batches_of_test_images_are_looked_at_before_training_too(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.data.decoding.loader.free_shared_memory", lambda: (2 * 2 + 2) * 8 * 3 * 16 * 16)
    session = opened(digits, tmp_path, workers=2)
    with pytest.raises(
        Unread, match=r"2 workers need 92.2 kB of /dev/shm for batches of 15.4 kB, and 36.9 kB are free"
    ):
        assert session.device_data


def test_a_view_that_cells_have_in_common_is_queried_once(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain views of kd and pckd are the same images: four views of a group make four forward passes, not five."""
    session = opened(digits, tmp_path)
    session.train_teacher("resnet8")
    outputs, sizes = LiveTeacher.outputs, []

    def counted(self: LiveTeacher, images: torch.Tensor, reads: frozenset[Any]) -> Any:
        sizes.append(len(images))
        return outputs(self, images, reads)

    monkeypatch.setattr(LiveTeacher, "outputs", counted)
    trained(session, "kd", "pckd")
    batches = Batches(session.device_data, session.protocol, 1)
    groups = [last - first for step in range(batches.steps) for first, last in batches.layout.bounds(step)]
    assert sizes == [size for size in groups for _ in range(4)] * session.protocol.epochs
