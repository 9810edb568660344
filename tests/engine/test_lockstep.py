"""Cells in lockstep share what they have in common, and each gets the result that it has alone."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import METHODS, share_teachers

import kdbench
from kdbench.data.resident import ResidentImages
from kdbench.engine.progress import Progress
from kdbench.engine.train import train_cells
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.cell import Cell, lockstep_groups
from kdbench.experiment.folder import FAILURE, RECORD
from kdbench.methods.kd import KD
from kdbench.methods.reviewkd import ReviewKD
from kdbench.net import Outputs
from kdbench.teachers.outputs import LiveTeacher
from kdbench.teachers.plan import CacheMode

pytestmark = pytest.mark.once

SETTINGS = {name: dict(chosen) for name, chosen in METHODS.items()}


@pytest.fixture(scope="module")
def teacher_runs(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("teachers")
    open_session(tiny_npz, runs).train_teacher("resnet14")
    return runs


def open_session(npz: Path, runs: Path, **options: Any) -> kdbench.Session:
    return kdbench.Session.open("digits-demo-v1", data=f"npz:{npz}", epochs=2, runs=runs, device="cpu", **options)


@pytest.fixture
def new(tiny_npz: Path, teacher_runs: Path, tmp_path: Path) -> Callable[..., kdbench.Session]:
    """Open a session in a folder of its own that has the teacher."""

    def opened(name: str, **options: Any) -> kdbench.Session:
        runs = tmp_path / name
        share_teachers(runs, teacher_runs)
        return open_session(tiny_npz, runs, **options)

    return opened


def cells(session: kdbench.Session, methods: dict[str, Any], student: str = "resnet8", seed: int = 1) -> list[Cell]:
    return [
        session.cell(method=name, student=student, teacher="resnet14", seed=seed, settings=settings)
        for name, settings in methods.items()
    ]


def left(session: kdbench.Session, cell: Cell) -> dict[str, Any]:
    """What a cell has left that should not depend on company."""
    folder = cell.folder(session.runs)
    record = json.loads((folder / RECORD).read_bytes())
    cost = record["cost"]
    for name in ("train_seconds", "evaluate_seconds", "images_per_second", "peak_memory_mb", "cells_together"):
        del cost[name]
    del record["record_hash"]  # it covers the times
    return record | {"metrics": (folder / "metrics.jsonl").read_text()}


@pytest.mark.numerical
@pytest.mark.parametrize("cache", ["off", "on"])
def test_every_cell_has_the_result_that_it_has_alone(cache: CacheMode, new: Callable[..., kdbench.Session]) -> None:
    together, alone = new("together"), new("alone")
    wanted = [*cells(together, SETTINGS), *cells(together, {"ce": {}, "kd": {}, "pckd": {}}, "MobileNetV2")]
    outcomes = together.run_all(wanted, cache=cache)
    together_with = [o["cost"]["cells_together"] for o in outcomes if isinstance(o, dict)]
    assert together_with == [len(wanted)] * len(wanted)
    for cell in wanted:
        record = alone.run(cell, cache=cache)
        assert record["cost"]["cells_together"] == 1
        assert left(together, cell) == left(alone, cell), cell


@pytest.mark.numerical
@pytest.mark.parametrize("cache", ["off", "on"])
def test_nor_do_kernels_that_change_with_a_batch_tell_company(
    cache: CacheMode, new: Callable[..., kdbench.Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the test above, with a teacher whose outputs change with a batch's size and layout and the place in it."""
    outputs = LiveTeacher.outputs

    def sensitive(live: LiveTeacher, images: torch.Tensor, reads: Any) -> Outputs:
        def shift(values: torch.Tensor) -> torch.Tensor:
            place = torch.arange(len(values)).view(-1, *[1] * (values.ndim - 1))
            return values + 1e-5 * place + 1e-4 * len(values) + 1e-3 * images.is_contiguous()

        said = outputs(live, images, reads)
        parts = {name: tuple(map(shift, p)) if isinstance(p, tuple) else shift(p) for name, p in said.parts().items()}
        parts |= {"weight": said.weight, "bias": said.bias}
        return Outputs("teacher", **parts)

    monkeypatch.setattr(LiveTeacher, "outputs", sensitive)
    together, alone = new("together"), new("alone")
    wanted = cells(together, {name: SETTINGS[name] for name in ("kd", "reviewkd", "pckd", "sskd", "mlld")})
    together.run_all(wanted, cache=cache)
    for cell in wanted:
        alone.run(cell, cache=cache)
        assert left(together, cell) == left(alone, cell), cell


def test_cells_stopped_together_go_on_alone_and_apart(new: Callable[..., kdbench.Session]) -> None:
    """Positions differ afterwards: one cell goes further alone, then all go on from where each of them is."""
    quiet, stopped = new("quiet"), new("stopped")
    wanted = cells(quiet, {"ce": {}, "kd": {}, "reviewkd": SETTINGS["reviewkd"]})
    quiet.run_all(wanted, cache="off")

    def stop_at(fraction: float) -> Callable[[Cell], Callable[[Progress], None]]:
        def observe(progress: Progress) -> None:
            if progress.fraction >= fraction:
                os.kill(os.getpid(), signal.SIGINT)

        return lambda _: observe

    with pytest.raises(Interrupted, match="3 cells are saved in epoch 1 after step 1"):
        stopped.run_all(wanted, stop_at(0.0), cache="off")
    with pytest.raises(Interrupted, match=r"kd .* is saved in epoch 2"):
        stopped.run_all(wanted[1:2], stop_at(0.5), cache="off")
    assert all(isinstance(outcome, dict) for outcome in stopped.run_all(wanted, cache="off"))
    for cell in wanted:
        assert left(stopped, cell) == left(quiet, cell), cell


def test_the_teacher_and_the_images_are_made_once(
    new: Callable[..., kdbench.Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[frozenset[str]] = []
    made: list[int] = []
    outputs, augment = LiveTeacher.outputs, ResidentImages.augment

    def note_outputs(live: LiveTeacher, images: torch.Tensor, reads: Any) -> Any:
        asked.append(reads)
        return outputs(live, images, reads)

    def note_augment(images: ResidentImages, index: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
        made.append(view.numel())
        return augment(images, index, view)

    monkeypatch.setattr(LiveTeacher, "outputs", note_outputs)
    monkeypatch.setattr(ResidentImages, "augment", note_augment)
    session = new("shared")
    wanted = [
        *cells(session, {"ce": {}, "kd": {}, "reviewkd": {"max_mid_channels": 16}, "pckd": {}}),
        *cells(session, {"reviewkd": {"max_mid_channels": 16, "review_weight": 2.0}}),
    ]
    session.run_all(wanted, cache="off")
    plain = {"logits", "penultimate", "stages", "preact"}
    assert asked == [plain, {"logits", "penultimate"}] * 2  # 42 images are one step of 64; two epochs
    assert made == [4 * 42] * 2  # the plain view is the first of the four


def test_together_bounds_the_lockstep(new: Callable[..., kdbench.Session]) -> None:
    session = new("bounded")
    wanted = [*cells(session, {"ce": {}, "kd": {}, "dkd": {}}), *cells(session, {"ce": {}}, seed=2)]
    assert [len(group) for group in lockstep_groups(wanted, None)] == [3, 1]
    assert [len(group) for group in lockstep_groups(wanted, 2)] == [2, 1, 1]
    assert [len(group) for group in lockstep_groups([*wanted, *wanted], None)] == [3, 1]
    outcomes = session.run_all(wanted, together=2, cache="off")
    assert [o["cost"]["cells_together"] for o in outcomes if isinstance(o, dict)] == [2, 2, 1, 1]


def test_a_cell_that_fails_does_not_stop_the_others(
    new: Callable[..., kdbench.Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a mistake in the method")

    def exploding(self: KD, student: Any, *_: Any) -> dict[str, torch.Tensor]:
        return {"kd": student.logits.sum() * torch.inf}

    monkeypatch.setattr(ReviewKD, "loss", broken)
    monkeypatch.setattr(KD, "loss", exploding)
    session = new("failing")
    wanted = cells(session, {"ce": {}, "kd": {}, "reviewkd": {}, "dkd": {}})
    ce, kd, reviewkd, dkd = session.run_all(wanted, cache="off")
    assert isinstance(ce, dict)
    assert isinstance(dkd, dict)
    assert isinstance(kd, UserError)
    assert "kd resnet14>resnet8 seed 1 failed: diverged in epoch 1 at step 1" in str(kd)
    assert isinstance(reviewkd, ZeroDivisionError)
    reasons = [json.loads((cell.folder(session.runs) / FAILURE).read_bytes())["reason"] for cell in wanted[1:3]]
    assert reasons == ["diverged", "error"]
    monkeypatch.undo()
    assert all(isinstance(outcome, dict) for outcome in session.run_all(wanted, cache="off"))
    assert not (wanted[1].folder(session.runs) / FAILURE).exists()


def test_a_teacher_that_fails_fails_those_that_ask_it(
    new: Callable[..., kdbench.Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LiveTeacher, "outputs", broken)
    session = new("no-teacher")
    wanted = cells(session, {"ce": {}, "kd": {}, "dkd": {}})
    ce, *outcomes = session.run_all(wanted, cache="off")
    assert isinstance(ce, dict), "it asks no teacher"
    assert not (wanted[0].folder(session.runs) / FAILURE).exists()
    for outcome in outcomes:
        assert isinstance(outcome, UserError)
        assert "failed: out of memory (CUDA out of memory); its last state is kept" in str(outcome)


def test_cells_of_two_seeds_are_never_given_the_images_of_one(new: Callable[..., kdbench.Session]) -> None:
    """Whoever passes them by mistake is told so, before a step is done."""
    session = new("mixed")
    mixed = [cell for seed in (1, 2) for cell in cells(session, {"ce": {}}, seed=seed)]
    with pytest.raises(AssertionError, match="ce resnet8 seed 2 is given the images of seed 1"):
        train_cells(mixed, lambda: session.device_data, lambda _: None, session.options)
    other = dataclasses.replace(mixed[0], protocol=session.protocol.override(epochs=3))
    with pytest.raises(AssertionError, match="another protocol"):
        train_cells([mixed[0], other], lambda: session.device_data, lambda _: None, session.options)
