"""Exports: other libraries load each file by themselves and give the logits of the network."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from cells import Typed
from trained_runs import TrainedRuns

import kdbench
from kdbench.engine import export
from kdbench.engine.described import described
from kdbench.engine.model_card import model_card
from kdbench.engine.trained import Trained


def an_image_batch(num_images: int) -> torch.Tensor:
    """Images in [0, 1]."""
    return torch.rand(num_images, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def check(net: Trained, logits: torch.Tensor, images: torch.Tensor) -> None:
    with torch.no_grad():
        expected = net(net.normalise(images))
    assert torch.allclose(logits, expected, atol=1e-4)
    assert not torch.allclose(expected[:1], expected[1:2], atol=1e-3)  # of other images, other logits


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_timm_loads_its_network(trained_runs: TrainedRuns, typed: Typed, suffix: str) -> None:
    folder = trained_runs.cells["vit"]
    code, out, error = typed("export", folder, "--to", "timm", "--out", f"below/vit{suffix}")
    assert code == 0, error
    words = out.splitlines()[1].partition(";")[0]
    model = eval(words, {"timm": timm}).eval()
    net, images = kdbench.load(folder), an_image_batch(3)
    with torch.no_grad():
        check(net, model(net.normalise(images)), images)
    assert [path.name for path in Path("below").iterdir()] == [f"vit{suffix}"]


@pytest.mark.parametrize("target", ["torchvision", "timm"])
def test_both_libraries_load_a_network_that_both_have(trained_runs: TrainedRuns, typed: Typed, target: str) -> None:
    folder = trained_runs.cells["torchvision"]
    code, _, error = typed("export", folder / "record.json", "--to", target, "--out", "r18.pth")
    assert code == 0, error
    make = {"torchvision": torchvision.models.resnet18, "timm": timm.models.resnet18}[target]
    model = make(num_classes=3)
    model.load_state_dict(torch.load("r18.pth", weights_only=True))
    net, images = kdbench.load(folder), an_image_batch(3)
    with torch.no_grad():
        check(net, model.eval()(net.normalise(images)), images)


@pytest.mark.parametrize(("name", "network"), [("vit", "test_vit"), ("torchvision", "resnet18")])
def test_timm_loads_a_folder_for_the_hub(trained_runs: TrainedRuns, typed: Typed, name: str, network: str) -> None:
    folder = trained_runs.cells[name]
    code, _, error = typed("export", folder, "--to", "hf", "--out", "hub")
    assert code == 0, error
    assert sorted(path.name for path in Path("hub").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    model = timm.create_model("local-dir:hub", pretrained=True).eval()
    net, images = kdbench.load(folder), an_image_batch(3)
    with torch.no_grad():
        check(net, model(net.normalise(images)), images)
    # timm's own transform gives what kdbench's does.
    data = timm.data.resolve_model_data_config(model)
    pixels = np.random.default_rng(1).integers(256, size=(16, 16, 3)).astype(np.uint8)
    image = torchvision.transforms.functional.to_pil_image(pixels)
    assert torch.allclose(timm.data.create_transform(**data)(image), net.preprocess(image)[0], atol=1e-5)
    assert json.loads(Path("hub/config.json").read_text(encoding="utf-8"))["architecture"] == network
    card = Path("hub/README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: timm\n")
    assert f"{described(folder).accuracy:.2f} %" in card


@pytest.mark.parametrize("name", ["simkd", "vit"])
def test_onnx_runtime_runs_batches_of_any_size(trained_runs: TrainedRuns, typed: Typed, name: str) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = trained_runs.cells[name]
    code, out, error = typed("export", folder, "--to", "onnx", "--out", "net.onnx")
    assert code == 0, error
    assert len(out.splitlines()) == 2
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    net = kdbench.load(folder)
    for num_images in (2, 7):
        images = an_image_batch(num_images)
        (logits,) = session.run(None, {"images": images.numpy()})
        check(net, torch.from_numpy(logits), images)


def test_onnx_names_the_package_that_is_missing(
    trained_runs: TrainedRuns, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, error = typed("export", trained_runs.cells["simkd"], "--to", "onnx", "--out", "net.onnx")
    assert (code, error.count("\n")) == (2, 1)
    assert "pip install 'kdbench[onnx]'" in error
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("name", "target", "out", "message"),
    [
        ("kd", "timm", "a.pth", "resnet8 is no network of timm: type --to onnx"),
        ("kd", "torchvision", "a.pth", "resnet8 is no network of torchvision"),
        ("vit", "torchvision", "a.pth", "timm:test_vit is no network of torchvision"),
        ("simkd", "hf", "a", "is more than resnet8"),
        ("vit", "timm", "a.onnx", "writes a file that ends in .safetensors or .pth"),
        ("vit", "onnx", "a", "writes a file that ends in .onnx"),
        ("vit", "hf", ".", "exists, and nothing is overwritten"),
        ("kd", "timm", "x", "resnet8 is no network of timm"),  # which no other path mends
    ],
)
def test_what_cannot_be_written_is_said_in_a_line_before_weights_are_read(
    trained_runs: TrainedRuns,
    typed: Typed,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    target: str,
    out: str,
    message: str,
) -> None:
    monkeypatch.setattr(export, "read_net", None)
    code, _, error = typed("export", trained_runs.cells[name], "--to", target, "--out", out)
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
    assert not list(Path().iterdir())


def test_other_logits_are_not_put_in_place(
    trained_runs: TrainedRuns, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = safetensors.torch.save
    monkeypatch.setattr(
        safetensors.torch, "save", lambda weights: save({name: value + 0.01 for name, value in weights.items()})
    )
    code, _, error = typed("export", trained_runs.cells["vit"], "--to", "timm", "--out", "a.safetensors")
    assert code == 2
    assert "its logits differ from the network's by" in error
    assert not list(Path().iterdir())


def test_a_model_card_escapes_what_users_have_named(trained_runs: TrainedRuns) -> None:
    source = dataclasses.replace(described(trained_runs.cells["kd"]), network="a|b\n# <script>")
    card = model_card(source, kdbench.load(trained_runs.cells["kd"]), "images")
    assert "a\\|b" in card
    assert "\n# \\<script" not in card
    assert "<script" not in card.replace("\\<", "")
