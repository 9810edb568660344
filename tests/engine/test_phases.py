"""Pre-training before the protocol's epochs, networks that a method makes of the student, strong views."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from cells import Seen, Typed, end_epoch, make_run, steps
from torch import Tensor, nn

import kdbench
import kdbench.methods.kd
from kdbench.engine.progress import Progress
from kdbench.engine.run import Run
from kdbench.engine.run_state import resume, save
from kdbench.experiment.folder import STATE
from kdbench.method import Batch, Method, PhaseName, Pretraining, Reads, Setup
from kdbench.net import Net, Outputs
from kdbench.utils.checkpoint import load_state

pytestmark = pytest.mark.once


class Hinted(Method):
    """A head learns from the teacher's features, then the student follows what it says of them."""

    FAMILY = "features"
    READS = Reads(student={"logits", "penultimate"}, teacher={"penultimate"})
    trains_student: ClassVar[bool] = False
    seen: ClassVar[list[tuple[str, int, int, float]]] = []

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        self.head = nn.Sequential(nn.BatchNorm1d(setup.teacher.width), nn.Linear(setup.teacher.width, 5))
        self.mine = nn.Linear(setup.student.width, 5)

    @classmethod
    def pretraining(cls, config: Any) -> float:
        return 1.0

    @classmethod
    def reads(cls, config: Any, phase: PhaseName) -> Reads:
        early = Reads(student={"penultimate"} if cls.trains_student else (), teacher={"penultimate"})
        return early if phase == "pretraining" else cls.READS

    def pretrain(self, student: Net) -> Pretraining:
        both = self.trains_student
        return Pretraining(
            loss=self.first,
            train=(self.head, student) if both else (self.head,),
            freeze=(self.head,),
            learning_rate=0.02,
            milestones=(0.5,),
        )

    def first(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(("first", batch.epoch, batch.epochs, float(batch.images.sum())))
        terms = {"size": self.head(teacher.penultimate).square().mean()}
        return terms | ({"student": student.penultimate.square().mean()} if self.trains_student else {})

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(("then", batch.epoch, batch.epochs, float(batch.images.sum())))
        ce = nn.functional.cross_entropy(student.logits, batch.targets)
        return {"ce": ce, "hint": (self.mine(student.penultimate) - self.head(teacher.penultimate)).square().mean()}


@pytest.fixture
def hinted(monkeypatch: pytest.MonkeyPatch) -> type[Hinted]:
    """Let ``kd`` mean this method."""
    monkeypatch.setattr(kdbench.methods.kd, "METHOD", Hinted, raising=False)
    monkeypatch.setattr(Hinted, "seen", [])
    return Hinted


def state_of(run: Run) -> dict[str, Tensor]:
    modules = {"student": run.student, "method": run.method}
    return {f"{name}.{k}": v.clone() for name, module in modules.items() for k, v in module.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The first two parts of the names of what differs."""
    return {".".join(k.split(".")[:2]) for k in before if not torch.equal(before[k], after[k])}


def train_epoch(run: Run) -> None:
    steps(run, 3)
    run.flush_losses()
    end_epoch(run)


def test_each_phase_trains_what_it_says(hinted: type[Hinted], tiny_npz: Path, tmp_path: Path) -> None:
    run = make_run(tiny_npz, tmp_path, "kd")
    assert run.cell.epochs == range(-1, 3)
    states, epochs = [state_of(run)], []
    for _ in run.cell.epochs:
        epochs.append((run.phase.pretraining, run.epoch, run.stream_epoch))
        train_epoch(run)
        states.append(state_of(run))
    assert run.done
    assert epochs == [(True, 1, -1), (True, 2, 0), (False, 1, 1), (False, 2, 2)]
    differences = [changed(*pair) for pair in itertools.pairwise(states)]
    assert differences == [{"method.head"}] * 2 + [{"method.mine", "student.backbone"}] * 2
    rows = [json.loads(line) for line in (run.folder / "pretraining.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["lr"]) for row in rows] == [(1, 0.02), (2, pytest.approx(0.002))]
    assert all(row["loss/size"] > 0 and "top1" not in row for row in rows)
    assert [row["epoch"] for row in run.tally.history] == [1, 2]
    assert [row["lr"] for row in run.tally.history] == pytest.approx([0.05, 0.05 * 0.1**3])
    assert [seen[:3] for seen in hinted.seen[::3]] == [
        ("first", 1, 2),
        ("first", 2, 2),
        ("then", 1, 2),
        ("then", 2, 2),
    ]


def test_the_student_can_be_trained_before(
    hinted: type[Hinted], tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its classifier, which the first loss does not reach, stays as it was drawn."""
    monkeypatch.setattr(hinted, "trains_student", True)
    run = make_run(tiny_npz, tmp_path, "kd")
    before = state_of(run)
    train_epoch(run)
    after = state_of(run)
    assert changed(before, after) == {"method.head", "student.backbone"}
    assert torch.equal(after["student.backbone.fc.weight"], before["student.backbone.fc.weight"])


def test_the_protocols_epochs_are_those_of_every_method(hinted: type[Hinted], tiny_npz: Path, tmp_path: Path) -> None:
    """The same images in the same order; those of pre-training are others."""
    run, alone = make_run(tiny_npz, tmp_path, "kd"), make_run(tiny_npz, tmp_path, "ce")
    images = Seen()
    with alone.observed(images):
        for one in (run, alone):
            while not one.done:
                train_epoch(one)
    sums = [float(plain.sum()) for plain in images.images]
    assert len(sums) == 6
    assert [seen[3] for seen in hinted.seen if seen[0] == "then"] == sums
    assert not {seen[3] for seen in hinted.seen if seen[0] == "first"} & set(sums)


@pytest.mark.parametrize("stop", [1, 3, 4, 8])
def test_a_state_goes_round_in_every_phase(
    hinted: type[Hinted], stop: int, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one step; at the end of the first epoch; after one step of the second; in the protocol's first epoch."""
    monkeypatch.setattr(hinted, "trains_student", True)
    whole = make_run(tiny_npz, tmp_path / "whole", "kd")
    while not whole.done:
        train_epoch(whole)
    first = make_run(tiny_npz, tmp_path, "kd")
    for _ in range(stop // 3):
        train_epoch(first)
    steps(first, stop % 3)
    first.flush_losses()
    save(first)
    saved = load_state(first.folder / STATE)
    assert saved
    assert saved["epoch"] == stop // 3 - 1, "pre-training ends with 0 in saved states"
    second = make_run(tiny_npz, tmp_path, "kd")
    resume(second)
    assert (second.stream_epoch, second.epoch, second.step) == (first.stream_epoch, first.epoch, first.step)
    steps(second, 3 - stop % 3)
    second.flush_losses()
    end_epoch(second)
    while not second.done:
        train_epoch(second)
    assert not changed(state_of(second), state_of(whole))
    assert second.tally.history_before == whole.tally.history_before


def test_cost_counts_what_came_before(
    hinted: type[Hinted], session: kdbench.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = session.cell(method="kd", student="resnet8", teacher="resnet14", seed=1)
    cost = session.run(cell, cache="off")["cost"]
    assert (cost["pretraining_epochs"], cost["student_views"], cost["teacher_forwards"]) == (2, 2 * 42, 4 * 42)
    monkeypatch.setattr(hinted, "trains_student", True)
    cell = session.cell(method="kd", student="resnet8", teacher="resnet14", seed=2)
    assert session.run(cell, cache="off")["cost"]["student_views"] == 4 * 42


@pytest.mark.numerical
@pytest.mark.usefixtures("float64")
def test_a_cache_has_what_comes_before(hinted: type[Hinted], session: kdbench.Session) -> None:
    """With the same losses as the live teacher's, up to their rounding to float32."""
    cells = [session.cell(method="kd", student="resnet8", teacher="resnet14", seed=seed) for seed in (1, 2)]
    cached = session.run(cells[0], cache="on")
    assert cached["cost"]["teacher_outputs"] == "cache"
    folder = cells[0].folder(session.runs)
    read = (folder / "pretraining.jsonl").read_text()
    (folder / "record.json").unlink()
    session.run(cells[0], cache="off")
    for line, other in zip(read.splitlines(), (folder / "pretraining.jsonl").read_text().splitlines(), strict=True):
        assert json.loads(line)["loss/size"] == pytest.approx(json.loads(other)["loss/size"], rel=2**-23)


def test_cells_that_are_ahead_wait(hinted: type[Hinted], session: kdbench.Session) -> None:
    """In lockstep with a method without pre-training, each has the result that it has alone."""
    cells = [session.cell(method=name, student="resnet8", teacher="resnet14", seed=1) for name in ("kd", "dkd")]
    shown: list[tuple[str, bool, int]] = []

    def observe(cell: Any) -> Callable[[Progress], None]:
        return lambda progress: shown.append((cell.method, progress.pretraining, progress.epoch))

    together = [
        record["weights"] for record in session.run_all(cells, observe, cache="off") if isinstance(record, dict)
    ]
    for cell in cells:
        (cell.folder(session.runs) / "record.json").unlink()
    assert [session.run(cell, cache="off")["weights"] for cell in cells] == together
    assert ("kd", True, 2) in shown
    assert not any(before for name, before, _ in shown if name == "dkd")


def test_a_table_says_who_was_trained_before(hinted: type[Hinted], session: kdbench.Session, typed: Typed) -> None:
    for name in ("kd", "dkd"):
        session.run(session.cell(method=name, student="resnet8", teacher="resnet14", seed=1), cache="off")
    code, out, _ = typed("table", session.runs)
    assert code == 0
    assert "unequal compute: kd adds 2 epochs of pre-training" in out


def test_the_hint_may_come_first(session: kdbench.Session) -> None:
    """As in FitNet's paper: the hint falls in pre-training, and cross entropy and KD follow without it."""
    settings = {"init_fraction": 1.5, "kd_weight": 1.0}
    cell = session.cell(method="fitnet", student="resnet8", teacher="resnet14", seed=1, settings=settings)
    record = session.run(cell)
    assert record["cost"]["pretraining_epochs"] == 3
    assert set(record["loss"]) == {"ce", "kd"}
    lines = (cell.folder(session.runs) / "pretraining.jsonl").read_text().splitlines()
    hints = [json.loads(line)["loss/hint"] for line in lines]
    assert hints == sorted(hints, reverse=True)
    plain = session.cell(method="fitnet", student="resnet8", teacher="resnet14", seed=1)
    assert "init_fraction" not in plain.identity()["method"]
