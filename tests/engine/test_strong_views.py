"""Strong views, and networks that a method makes of the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from cells import Seen, make_run, steps
from test_phases import train_epoch
from torch import Tensor, nn

import kdbench
import kdbench.methods.kd
from kdbench.method import Batch, Setup, ViewPlan
from kdbench.models.evaluate import predict
from kdbench.models.weights import load_weights, read_weights
from kdbench.net import Backbone, Features, Net, Outputs

pytestmark = pytest.mark.once


class Wider(Backbone):
    """The student's features, a layer above them and another classifier."""

    def __init__(self, student: Backbone, num_classes: int) -> None:
        super().__init__()
        self.student = student
        student.head().requires_grad_(False)
        self.layer = nn.Linear(student.head().in_features, 5)
        self.classifier = nn.Linear(5, num_classes).requires_grad_(False)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        found = self.student.features(images, maps=maps)
        return Features(self.layer(found.penultimate), found.stages, None, None)

    def head(self) -> nn.Linear:
        return self.classifier


class Wrapped(kdbench.methods.kd.KD):  # type: ignore[misc]
    """KD of a network around the student."""

    def wrap(self, setup: Setup) -> Net:
        return setup.student.around(Wider(setup.student.backbone, setup.student.num_classes))


def test_a_method_may_replace_the_network(session: kdbench.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what is trained, evaluated and saved; its frozen classifier stays as it was."""
    monkeypatch.setattr(kdbench.methods.kd, "METHOD", Wrapped, raising=False)
    cell = session.cell(method="kd", student="resnet8", teacher="resnet14", seed=1)
    record = session.run(cell, cache="off")
    assert record["cost"]["extra_parameters"] == 64 * 5 + 5
    weights = read_weights(cell.folder(session.runs) / "model.safetensors")
    plain = session.run(session.cell(method="ce", student="resnet8", seed=1))
    assert plain["cost"]["extra_parameters"] == 0
    net = kdbench.models.build.build_net("resnet8", session.protocol, session.dataset, seed=1, purpose="student")
    drawn = {f"student.{name}": value for name, value in net.backbone.state_dict().items()}
    assert set(weights) == {*drawn, "layer.weight", "layer.bias", "classifier.weight", "classifier.bias"}
    assert torch.equal(weights["student.fc.weight"], drawn["student.fc.weight"])
    assert not torch.equal(weights["student.conv1.weight"], drawn["student.conv1.weight"])
    made = net.around(Wider(net.backbone, 3))
    load_weights(made, weights, "record")
    right = predict(made, session.dataset.evaluation(session.device)).argmax(1) == session.dataset.test_labels
    assert record["top1"] == pytest.approx(100 * right.float().mean().item())


class Strong(kdbench.methods.kd.KD):  # type: ignore[misc]
    """KD on the plain view and two strong ones."""

    seen: ClassVar[list[Tensor]] = []

    @classmethod
    def views(cls, config: Any) -> ViewPlan:
        return ViewPlan(num_strong=2)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(batch.images.view(3, batch.size, *batch.images.shape[1:]).clone())
        plain = slice(batch.size)
        ce = nn.functional.cross_entropy(student.logits[plain], batch.targets)
        return {"ce": ce, "kd": (student.logits - teacher.logits).square().mean()}


def test_strong_views_stand_behind_the_others(tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pure functions of seed and epoch, each of its own; the plain view is that of every method."""
    monkeypatch.setattr(kdbench.methods.kd, "METHOD", Strong, raising=False)
    monkeypatch.setattr(Strong, "seen", [])
    alone = make_run(tiny_npz, tmp_path, "ce")
    plain = Seen()
    with alone.observed(plain):
        steps(alone, 3)
    for _ in range(2):
        steps(make_run(tiny_npz, tmp_path, "kd"), 3)
    first, again = Strong.seen[:3], Strong.seen[3:]
    for images, same, alike in zip(first, again, plain.images, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(images[0], alike)
        assert images.min() >= 0
        assert images.max() <= 1
        moved = (images[1:] - images[:1]).abs().mean((2, 3, 4))
        assert (moved > 0.01).float().mean() > 0.9
        assert not torch.equal(images[1], images[2])
    run = make_run(tiny_npz, tmp_path, "kd")
    train_epoch(run)
    train_epoch(run)
    assert not torch.equal(Strong.seen[6], Strong.seen[9])


def test_strong_views_are_asked_live_and_in_lockstep(session: kdbench.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdbench.methods.kd, "METHOD", Strong, raising=False)
    cells = [session.cell(method=name, student="resnet8", teacher="resnet14", seed=1) for name in ("kd", "dkd")]
    records = [record for record in session.run_all(cells, cache="on") if isinstance(record, dict)]
    assert [record["cost"]["teacher_outputs"] for record in records] == ["live", "cache"]
    assert records[0]["cost"]["views_per_image"] == 3
    (cells[0].folder(session.runs) / "record.json").unlink()
    assert session.run(cells[0])["weights"] == records[0]["weights"]
