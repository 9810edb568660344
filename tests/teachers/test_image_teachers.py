"""Teachers and students for image files, as a user types them: published weights, their names and normalisation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cells import Typed
from digit_files import NAME, RULES, register, write_digits

from kdbench.models.torchvision_resnet import TorchvisionResNet

pytestmark = pytest.mark.once

NETWORK = "torchvision:resnet18"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return ["--protocol", NAME, "--data", f"folder:{write_digits(tmp_path / 'digits')}"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights as timm keeps them on the hub, whose own normalisation is not the protocol's."""
    torch.manual_seed(0)
    path = tmp_path / "hub" / "model.safetensors"
    path.parent.mkdir()
    safetensors.torch.save_file(TorchvisionResNet("resnet18", 10).model.state_dict(), path)
    config = {"tag": "mine", "mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 32, 32], "crop_pct": 0.9}
    described = {"architecture": "resnet18", "pretrained_cfg": config | {"interpolation": "bilinear"}}
    (path.parent / "config.json").write_text(json.dumps(described))
    return path


def test_weights_of_timm_teach_and_start_under_torchvisions_name(
    typed: Typed, words: list[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, RULES.replace("\nsize = 16", "\nsize = 32").replace("= 18", "= 36"))
    code, _, err = typed("teacher", "import", file, *words, "--network", "timm:resnet18")
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"type {NETWORK}" in err
    code, out, err = typed("teacher", "import", file, *words, "--network", NETWORK)
    assert code == 0, err
    assert "imported from timm:resnet18.mine" in out
    (card,) = Path("runs").glob("**/teacher.json")
    assert json.loads(card.read_text())["mean"] == [0.5] * 3
    pair = ["--teacher", NETWORK, "--student", NETWORK, "--method", "kd", "--epochs", "1"]
    code, out, err = typed("train", *words, *pair, "--init", file)
    assert code == 0, err
    (record,) = Path("runs").glob("**/record.json")
    assert json.loads(record.read_text())["student"].startswith(f"{NETWORK}@")


def test_a_name_for_small_images_is_refused_where_they_are_large(
    typed: Typed, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, RULES.replace("\nsize = 16", "\nsize = 224").replace("= 18", "= 256"))
    for command in (
        ("train", *words, "--student", "ResNet50", "--method", "ce"),
        ("teacher", "train", *words, "--network", "resnet-50"),
        ("teacher", "import", "nowhere.pth", *words, "--network", "ResNet50"),
    ):
        code, _, err = typed(*command)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert "type torchvision:resnet50" in err
    code, _, err = typed("train", *words, "--student", "resnet18", "--method", "ce")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "type torchvision:resnet18" in err
