"""A record becomes the network that was evaluated: equal logits, checked weights, images as in evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision import transforms
from trained_runs import CELLS, TrainedRuns

import kdbench
from kdbench.engine.trained import Trained
from kdbench.errors import UserError
from kdbench.experiment.protocol import load_protocol
from kdbench.experiment.record_checks import sealed
from kdbench.models import build_backbone
from kdbench.net import Net


def read_test_set(npz: Path) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(npz) as arrays:
        return torch.from_numpy(arrays["test_images"]).permute(0, 3, 1, 2), torch.from_numpy(arrays["test_labels"])


def as_of_0_1(folder: Path, copy: Path) -> Path:
    """A copy of a cell's folder with the record that kdbench 0.1 would have written."""
    shutil.copytree(folder, copy)
    record = json.loads((copy / "record.json").read_text(encoding="utf-8"))
    del record["input"], record["record_hash"]
    (copy / "record.json").write_text(json.dumps(sealed(record)), encoding="utf-8")
    return copy


@pytest.mark.parametrize("name", CELLS)
def test_the_loaded_network_is_the_one_that_was_evaluated(trained_runs: TrainedRuns, name: str) -> None:
    folder = trained_runs.cells[name]
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    images, labels = read_test_set(trained_runs.npz)
    stream = torch.random.get_rng_state()
    net = kdbench.load(folder / "record.json")
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert isinstance(net, torch.nn.Module)
    assert not net.training
    with torch.no_grad():
        x = net.preprocess(images)
        logits = net(x)
        assert F.cross_entropy(logits.double(), labels).item() == pytest.approx(record["nll"], rel=1e-5)
        assert net.features(x).shape == (len(images), net.width)
        head = net.backbone.head()
        assert torch.equal(F.linear(net.features(x), head.weight, head.bias), logits)


def test_a_simkd_student_has_its_projector_and_the_teachers_classifier(trained_runs: TrainedRuns) -> None:
    net = kdbench.load(trained_runs.cells["simkd"])
    teacher = kdbench.load(trained_runs.teacher)
    assert any(name.startswith("backbone.projector.") for name in net.state_dict())
    assert torch.equal(net.backbone.head().weight, teacher.backbone.head().weight)
    assert net.width == teacher.width


def test_a_teacher_is_loaded_from_its_folder_and_its_card(trained_runs: TrainedRuns, tmp_path: Path) -> None:
    images, _ = read_test_set(trained_runs.npz)
    copied = tmp_path / "digits-demo-v1" / "teachers" / "resnet20-of-another-machine"
    shutil.copytree(trained_runs.teacher, copied)  # without the cell that trained it
    nets = [
        kdbench.load(trained_runs.teacher),
        kdbench.load(trained_runs.teacher / "teacher.json"),
        kdbench.load(copied, image_size=(16, 16)),
    ]
    logits = [net(net.preprocess(images)) for net in nets]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], torch.zeros_like(logits[0]))


def test_pillows_images_are_taken_as_tensors_are(trained_runs: TrainedRuns) -> None:
    net = kdbench.load(str(trained_runs.cells["kd"]))
    images, _ = read_test_set(trained_runs.npz)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    rules = load_protocol("digits-demo-v1").rules.data
    expected = transforms.Normalize(rules.mean, rules.std)(images / 255)
    assert torch.allclose(net.preprocess(images), expected, atol=1e-6)
    assert torch.equal(net.preprocess(pictures), net.preprocess(images))
    assert torch.equal(net.preprocess(pictures[3]), net.preprocess(images[3]))
    grey = pictures[3].convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) << 8)
    assert torch.equal(net.preprocess(deep), net.preprocess(grey))
    assert net.preprocess(grey).shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match="range is unknown"):
        net.preprocess(grey.convert("F"))


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (16, 20), (9, 7)])
def test_images_of_another_size_are_resized_and_cut(trained_runs: TrainedRuns, size: tuple[int, int]) -> None:
    net = kdbench.load(trained_runs.cells["kd"])
    pixels = np.random.default_rng(0).integers(256, size=(*size, 3)).astype(np.uint8)
    steps = [transforms.Resize(16), transforms.CenterCrop(16), transforms.ToTensor()]
    rules = load_protocol("digits-demo-v1").rules.data
    expected = transforms.Compose([*steps, transforms.Normalize(rules.mean, rules.std)])(Image.fromarray(pixels))
    assert torch.allclose(net.preprocess(Image.fromarray(pixels))[0], expected, atol=1e-6)
    assert torch.allclose(net.preprocess(torch.from_numpy(pixels).permute(2, 0, 1))[0], expected, atol=1e-6)


def test_images_of_a_protocol_for_files_are_seen_as_by_torchvision() -> None:
    rules = load_protocol("imagefolder-224-v1").rules
    backbone = build_backbone("torchvision:resnet18", 3, (224, 224))
    mean, std = rules.data.mean, rules.data.std
    net = Trained(Net("n", backbone, mean=mean, std=std, image_size=(224, 224)), rules.augmentation)
    side = rules.augmentation.evaluation_size
    steps = [
        transforms.Resize(side),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ]
    for size in ((224, 224), (300, 260)):  # a picture of the network's size is resized and cut as any other
        image = Image.fromarray(np.random.default_rng(0).integers(256, size=(*size, 3)).astype(np.uint8))
        assert torch.allclose(net.preprocess([image, image])[1], transforms.Compose(steps)(image), atol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_a_record_without_the_input_needs_its_size_alone(trained_runs: TrainedRuns, name: str, tmp_path: Path) -> None:
    folder = as_of_0_1(trained_runs.cells[name], tmp_path / "cell")
    with pytest.raises(UserError, match=r"image_size=\(HEIGHT, WIDTH\)"):
        kdbench.load(folder)
    images, _ = read_test_set(trained_runs.npz)
    nets = [kdbench.load(folder, image_size=(16, 16)), kdbench.load(trained_runs.cells[name])]
    logits = [net(net.preprocess(images)) for net in nets]
    assert torch.equal(*logits)


def test_weights_that_are_not_the_records_are_refused(trained_runs: TrainedRuns, tmp_path: Path) -> None:
    copy = tmp_path / "cell"
    shutil.copytree(trained_runs.cells["kd"], copy)
    shutil.copy(trained_runs.teacher / "model.safetensors", copy)
    with pytest.raises(UserError, match="is not the file that its record describes"):
        kdbench.load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="is missing: copy it"):
        kdbench.load(copy)
    (copy / "record.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        kdbench.load(copy)
    with pytest.raises(UserError, match="holds no trained network"):
        kdbench.load(tmp_path)


def test_what_is_no_image_is_refused(trained_runs: TrainedRuns) -> None:
    net = kdbench.load(trained_runs.cells["kd"])
    for wrong in (torch.zeros(3, 16, 16), torch.zeros(16, 16, 3, dtype=torch.uint8), [], [np.zeros((16, 16, 3))]):
        with pytest.raises(TypeError, match="images must be"):
            net.preprocess(wrong)
