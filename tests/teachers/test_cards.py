"""Teachers from files: what they are checked against, and which names their weights may have."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch
from cells import CPU

from kdbench.data.datasets import ArrayDataset, load_dataset
from kdbench.data.subsets import subset
from kdbench.errors import UserError
from kdbench.experiment.pairs import TeacherSpec
from kdbench.experiment.predictions import read_predictions
from kdbench.experiment.protocol import Protocol, load_protocol
from kdbench.models import build_backbone
from kdbench.models.evaluate import predict
from kdbench.teachers.cards import TeacherCard, card_folder, find_teacher, list_teachers
from kdbench.teachers.load import agrees, doubts, load_teacher
from kdbench.teachers.make import import_teacher


@pytest.fixture(scope="module")
def digits() -> ArrayDataset:
    return subset(load_dataset("digits", Path()), 2, 10)


def protocol(**accuracy: float) -> Protocol:
    return dataclasses.replace(load_protocol("digits-demo-v1"), accuracy=accuracy)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save({"model": build_backbone("resnet8", 10, (8, 8)).state_dict()}, tmp_path / "resnet8.pth")
    return tmp_path / "resnet8.pth"


def bring(file: Path, rules: Protocol, digits: ArrayDataset, network: str = "resnet8") -> TeacherCard:
    return import_teacher(file, network, runs=file.parent / "runs", protocol=rules, dataset=digits, device=CPU)


def test_a_teacher_is_measured_and_found_again(file: Path, digits: ArrayDataset) -> None:
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
    assert torch.equal(teacher.test_logits, predict(teacher.net, digits.evaluation(CPU)))
    kept = read_predictions(card_folder(runs, rules.name, card))
    assert kept
    assert torch.equal(torch.from_numpy(kept.logits), teacher.test_logits.half())
    assert (kept.predicted == kept.labels).mean() == right


def test_the_published_accuracy_is_expected(file: Path, digits: ArrayDataset) -> None:
    with pytest.raises(UserError, match=r"teacher mismatch: .* expected 75\.61 %"):
        bring(file, protocol(resnet8=75.61), digits)
    accuracy = bring(file, protocol(), digits).accuracy
    assert bring(file, protocol(resnet8=accuracy + 0.05), digits).expected == accuracy + 0.05


def test_published_accuracies_do_not_hold_for_other_data(file: Path, digits: ArrayDataset) -> None:
    rules = protocol(resnet8=75.61).override(dataset="npz:0123456789abcdef")
    assert bring(file, rules, digits).expected is None


@pytest.mark.numerical
@pytest.mark.usefixtures("float64")
def test_a_checkpoint_of_timm_has_timms_names(digits: ArrayDataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10)
    torch.save(model.state_dict(), tmp_path / "t.pth")
    rules = protocol()
    card = bring(tmp_path / "t.pth", rules, digits, "timm:test_resnet")
    logits = load_teacher(tmp_path / "runs", card, rules, digits, CPU).test_logits
    pixels = torch.cat([pixels for _, pixels in digits.evaluation(CPU).batches()]).double()
    expected = model.eval()((pixels - 0.3) / 0.37)
    torch.testing.assert_close(logits.double(), expected, rtol=2**-23, atol=1e-12)  # rounded to float32


def save(weights: dict[str, torch.Tensor], file: Path) -> Path:
    torch.save(weights, file)
    return file


def weights_in(file: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(file)["model"])


def test_one_set_of_weights_is_one_teacher(file: Path, digits: ArrayDataset) -> None:
    rules = protocol()
    card = bring(file, rules, digits)
    behind = {f"module.{name}": value for name, value in weights_in(file).items()}
    assert bring(save(behind, file.with_name("other.pth")), rules, digits) == card
    assert list_teachers(file.parent / "runs", rules.name) == [card]
    (file.parent / "runs" / rules.name / "teachers" / f"resnet8-{card.short}" / "model.safetensors").unlink()
    assert bring(file.with_name("other.pth"), rules, digits) == card
    load_teacher(file.parent / "runs", card, rules, digits, CPU)


def test_counters_of_batches_tell_no_teachers_apart(file: Path, digits: ArrayDataset) -> None:
    """Files of torch 0.4.0 have none; the weights that stand on the disk stay those of the card."""
    weights, rules, runs = weights_in(file), protocol(), file.parent / "runs"
    counted = {name: value + 7 if name.endswith("num_batches_tracked") else value for name, value in weights.items()}
    bare = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    assert len(bare) < len(counted)
    card = bring(save(counted, file.with_name("counted.pth")), rules, digits)
    assert bring(save(bare, file.with_name("bare.pth")), rules, digits) == card
    assert list_teachers(runs, rules.name) == [card]
    load_teacher(runs, card, rules, digits, CPU)
    other = {name: value + 1 if name.endswith("running_mean") else value for name, value in bare.items()}
    assert bring(save(other, file.with_name("else.pth")), rules, digits) != card


def test_two_networks_in_a_file_are_two_teachers(file: Path, digits: ArrayDataset) -> None:
    torch.manual_seed(1)
    both = {"model": weights_in(file), "ema": build_backbone("resnet8", 10, (8, 8)).state_dict()}
    torch.save(both, file)
    runs, rules = file.parent / "runs", protocol()
    one, two = (
        import_teacher(file, "resnet8", runs=runs, protocol=rules, dataset=digits, device=CPU, key=key)
        for key in ("model", "ema")
    )
    assert one.id != two.id
    for card, key in ((one, "model"), (two, "ema")):
        assert card.origin == f"imported from resnet8.pth, {key}"
        load_teacher(runs, card, rules, digits, CPU)


@pytest.mark.parametrize("expected", [float("nan"), float("inf"), -1.0, 100.5])
def test_an_accuracy_that_cannot_be_leaves_nothing(expected: float, file: Path, digits: ArrayDataset) -> None:
    runs = file.parent / "runs"
    with pytest.raises(UserError, match="--accuracy must be between 0 and 100"):
        import_teacher(file, "resnet8", runs=runs, protocol=protocol(), dataset=digits, device=CPU, expected=expected)
    assert not runs.exists()


def test_weights_or_logits_that_are_not_finite_leave_nothing(file: Path, digits: ArrayDataset) -> None:
    weights = weights_in(file)
    with pytest.raises(UserError, match=r"entry fc\.bias holds values that are not finite"):
        bring(save(weights | {"fc.bias": weights["fc.bias"] * torch.nan}, file), protocol(), digits)
    with pytest.raises(UserError, match=r"its logits are not finite on 100 of 100 test images"):
        bring(save(weights | {"bn1.weight": torch.full((16,), 3e38)}, file), protocol(), digits)
    assert not (file.parent / "runs").exists()


def test_a_fraction_is_no_percentage(file: Path) -> None:
    data = load_dataset("digits", Path())
    accuracy = bring(file, protocol(), data).accuracy
    assert accuracy > 1
    with pytest.raises(UserError, match=rf"--accuracy is in percent: {accuracy:g}\?"):
        bring(file, protocol(resnet8=accuracy / 100), data)


@pytest.mark.parametrize(
    ("num_images", "difference", "same"),
    [(500, 0.2, True), (500, 0.6, True), (500, 0.8, False), (10_000, 0.1, True), (10_000, 0.11, False)],
)
def test_accuracies_agree_up_to_a_few_images(
    num_images: int, difference: float, same: bool, digits: ArrayDataset
) -> None:
    labels = torch.zeros(num_images, dtype=torch.int64)
    dataset = dataclasses.replace(digits, test_labels=labels)
    assert agrees(88.0, 88.0 - difference, dataset) == agrees(88.0 - difference, 88.0, dataset) == same


@pytest.mark.parametrize(
    ("accuracy", "expected", "text"),
    [
        (98.8, 98.8, ""),
        (98.8, None, "98.80 %, imported without an expected accuracy: if the checkpoint is better elsewhere"),
        (10.0, 10.0, "10.00 % is no better than guessing the largest class ("),
        (13.6, None, "13.60 % is no better than guessing the largest class ("),
        (0.0, None, "0.00 % is no better than guessing the largest class ("),
        (27.6, None, "27.60 %, imported without an expected accuracy"),
    ],
)
def test_doubtful_accuracies(accuracy: float, expected: float | None, text: str) -> None:
    rules, data = protocol(), load_dataset("digits", Path())
    card = TeacherCard(
        network="resnet8",
        id="file:0",
        dataset="digits",
        weights="",
        accuracy=accuracy,
        expected=expected,
        origin="imported from a.pth",
    )
    assert len(data.test_labels) == 500
    doubt = doubts(card, rules, data)
    assert doubt.startswith(text)
    assert bool(text) == bool(doubt)
    assert ("% of 500 test images)" in doubt) == ("guessing" in text)
    if text:
        assert all(word in doubt for word in ("normalisation", "pixel range", "order of classes", "mean 0.3"))
    trained = dataclasses.replace(card, id="cell:0")
    assert ("train it for more epochs" in doubts(trained, rules, data)) == (accuracy < 20)


def test_an_accuracy_of_the_largest_class_is_guessing() -> None:
    data = load_dataset("digits", Path())
    labels = torch.zeros(500, dtype=torch.int64)
    labels[:50] = 1
    card = TeacherCard(
        network="resnet8", id="cell:0", dataset="digits", weights="", accuracy=90.0, expected=None, origin=""
    )
    assert "guessing" in doubts(card, protocol(), dataclasses.replace(data, test_labels=labels))


def test_a_damaged_card_is_named_only_where_it_may_be_meant(file: Path, digits: ArrayDataset) -> None:
    runs, rules = file.parent / "runs", protocol()
    card = bring(file, rules, digits)
    folder = runs / rules.name / "teachers"
    for content in ("[" * 100_000, "[]", json.dumps(dataclasses.asdict(card) | {"accuracy": "88"}), '{"id": 5}'):
        (folder / "vgg8-12345678").mkdir(exist_ok=True)
        (folder / "vgg8-12345678" / "teacher.json").write_text(content)
        assert find_teacher(runs, rules, TeacherSpec("resnet8"), "resnet8") == card
        with pytest.raises(UserError, match=r"vgg8-12345678/teacher\.json is damaged"):
            find_teacher(runs, rules, TeacherSpec("vgg8"), "vgg8")
    (folder / "resnet8-00000000").mkdir()
    (folder / "resnet8-00000000" / "teacher.json").write_text("{")
    with pytest.raises(UserError, match=r"resnet8-00000000/teacher\.json is damaged"):
        find_teacher(runs, rules, TeacherSpec("resnet8"), "resnet8")  # which of both is meant cannot be known
    assert find_teacher(runs, rules, TeacherSpec("resnet8", card.short), "resnet8") == card
