"""Teachers from files: what they are checked against, and which names their weights may have."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import timm
import torch
from cells import CPU

from kdbench.data.datasets import Dataset, load_dataset, subset
from kdbench.errors import UserError
from kdbench.experiment.pairs import TeacherSpec
from kdbench.experiment.protocol import Protocol, load_protocol
from kdbench.models import build_backbone
from kdbench.models.evaluate import predict
from kdbench.teachers.cards import TeacherCard, find_teacher, import_teacher, load_teacher


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return subset(load_dataset("digits", Path()), 2, 10)


def protocol(**accuracy: float) -> Protocol:
    return dataclasses.replace(load_protocol("digits-demo-v1"), accuracy=accuracy)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save({"model": build_backbone("resnet8", 10, (8, 8)).state_dict()}, tmp_path / "resnet8.pth")
    return tmp_path / "resnet8.pth"


def bring(file: Path, rules: Protocol, digits: Dataset, network: str = "resnet8") -> TeacherCard:
    return import_teacher(file, network, runs=file.parent / "runs", protocol=rules, dataset=digits, device=CPU)


def test_a_teacher_is_measured_and_found_again(file: Path, digits: Dataset) -> None:
    rules = protocol()
    card = bring(file, rules, digits)
    assert card.id == f"file:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    runs = file.parent / "runs"
    for spec in ("resnet8", card.spec):
        assert find_teacher(runs, rules, TeacherSpec.parse(spec), "resnet8") == card
    teacher = load_teacher(runs, card, rules, digits, CPU)
    right = (teacher.test_logits.argmax(dim=1) == digits.test_labels).double().mean().item()
    assert card.accuracy == pytest.approx(100 * right)
    assert not teacher.net.training
    assert not any(p.requires_grad for p in teacher.net.parameters())
    assert torch.equal(teacher.test_logits, predict(teacher.net, digits.test_images))


def test_the_published_accuracy_is_expected(file: Path, digits: Dataset) -> None:
    with pytest.raises(UserError, match=r"teacher mismatch: .* expected 75\.61 %"):
        bring(file, protocol(resnet8=75.61), digits)
    accuracy = bring(file, protocol(), digits).accuracy
    assert bring(file, protocol(resnet8=accuracy + 0.05), digits).expected == accuracy + 0.05


def test_published_accuracies_do_not_hold_for_other_data(file: Path, digits: Dataset) -> None:
    rules = protocol(resnet8=75.61).override(dataset="npz:0123456789abcdef")
    assert bring(file, rules, digits).expected is None


@pytest.mark.numerical
@pytest.mark.usefixtures("float64")
def test_a_checkpoint_of_timm_has_timms_names(digits: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10)
    torch.save(model.state_dict(), tmp_path / "t.pth")
    rules = protocol()
    card = bring(tmp_path / "t.pth", rules, digits, "timm:test_resnet")
    logits = load_teacher(tmp_path / "runs", card, rules, digits, CPU).test_logits
    pixels = digits.test_images.permute(0, 3, 1, 2).float().div(255).double()
    expected = model.eval()((pixels - 0.3) / 0.37)
    torch.testing.assert_close(logits.double(), expected, rtol=2**-23, atol=1e-12)  # rounded to float32
