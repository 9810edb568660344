"""The commands about teachers and checkpoints as a user types them."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import Typed

from kdbench.models import build_backbone


def make_teacher(typed: Typed, small: list[str]) -> None:
    code, out, err = typed("teacher", "train", *small, "--network", "ResNet-8")
    assert code == 0, err
    assert re.search(r"teacher resnet8@[0-9a-f]{8}: [\d.]+ % on the test set", out)


def checkpoint(path: Path, network: str = "resnet8", classes: int = 3, **extra: Any) -> Path:
    torch.manual_seed(0)
    weights = build_backbone(network, classes, (16, 16)).state_dict()
    torch.save({"model": {f"module.{k}": v for k, v in weights.items()}, **extra}, path)
    return path


def test_a_published_checkpoint_is_imported_as_it_is(typed: Typed, small: list[str], tmp_path: Path) -> None:
    """RepDistiller saves its options and a NumPy accuracy beside the weights, mdistiller an epoch."""
    options = argparse.Namespace(model="resnet8", lr=0.05, steps=[1, 2], path=None)
    file = checkpoint(tmp_path / "a.pth", opt=options, best_acc=np.float64(61.5), epoch=240)
    words = [w for w in small if w not in {"--epochs", "1"}]
    code, out, err = typed("teacher", "import", file, *words, "--network", "resnet8")
    assert code == 0, err
    assert "not checked" in out
    code, out, _ = typed("teacher", "list")
    assert "imported from a.pth" in out
    code, out, err = typed("train", *small, "--teacher", "resnet8", "--student", "resnet8", "--method", "kd")
    assert code == 0, err
    code, _, err = typed("teacher", "import", file, *words, "--network", "resnet8", "--accuracy", "99.5")
    assert code == 2
    assert "expected 99.50 %" in err
    assert "teacher mismatch" in err


def test_checkpoints_that_cannot_be_used(typed: Typed, small: list[str], tmp_path: Path) -> None:
    words = [w for w in small if w not in {"--epochs", "1"}]

    def refused(file: Path, network: str, text: str) -> None:
        code, _, err = typed("teacher", "import", file, *words, "--network", network)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert text in err
        assert not list(Path("runs").glob("**/teacher.json"))

    refused(checkpoint(tmp_path / "a.pth"), "vgg8", "is no vgg8 with 3 classes")
    refused(checkpoint(tmp_path / "b.pth", classes=10), "resnet8", "it has 10 classes")
    whole = (tmp_path / "a.pth").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.pth").write_bytes(whole[:size])
        refused(tmp_path / "cut.pth", "resnet8", "cut.pth")

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    refused(tmp_path / "evil.pth", "resnet8", "could run code")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"model": Evil()}))
    refused(tmp_path / "old.pth", "resnet8", "old.pth")
    assert not (tmp_path / "owned").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "resnet8", "no state dict")
    (tmp_path / "a.safetensors").write_bytes(b"12345678 nothing")
    refused(tmp_path / "a.safetensors", "resnet8", "a.safetensors")


def test_a_teacher_that_changed_on_disk_stops_the_run(typed: Typed, small: list[str]) -> None:
    make_teacher(typed, small)
    words = ["train", *small, "--teacher", "resnet8", "--student", "resnet8", "--method", "kd"]
    (card,) = Path("runs").glob("**/teacher.json")
    values = json.loads(card.read_bytes())
    other = (values["accuracy"] + 50) % 100  # by more than a few images of a small test set
    card.write_text(json.dumps(values | {"accuracy": other}))
    code, _, err = typed(*words)
    assert code == 2
    assert f"{other:.2f} %" in err
    assert f"{values['accuracy']:.2f} %" in err
    card.write_text(json.dumps(values | {"weights": "0" * 64}))
    assert "not the file that its card describes" in typed(*words)[2]
    card.write_text("{")
    assert "damaged" in typed(*words)[2]


def test_two_teachers_of_one_network_must_be_told_apart(typed: Typed, small: list[str]) -> None:
    make_teacher(typed, small)
    assert typed("teacher", "train", *small, "--network", "resnet8", "--seed", "5")[0] == 0
    words = ["train", *small, "--student", "resnet8", "--method", "kd", "--teacher"]
    code, _, err = typed(*words, "resnet8")
    assert code == 2
    spec = re.findall(r"resnet8@[0-9a-f]{8}", err)
    assert len(spec) == 2
    assert typed(*words, spec[1])[0] == 0
    assert "no teacher resnet8@ffff" in typed(*words, "resnet8@ffff")[2]


def test_an_import_says_what_is_doubtful_and_which_weights_it_took(
    typed: Typed, small: list[str], tmp_path: Path
) -> None:
    words = [*(w for w in small if w not in {"--epochs", "1"}), "--network", "resnet8"]
    weights = torch.load(checkpoint(tmp_path / "a.pth"))["model"]
    torch.save({"state_dict": weights, "state_dict_ema": {k: v / 2 for k, v in weights.items()}}, tmp_path / "b.pth")
    code, _, err = typed("teacher", "import", tmp_path / "b.pth", *words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "choose with --key one of state_dict.module, state_dict_ema.module" in err
    code, out, err = typed("teacher", "import", tmp_path / "b.pth", *words, "--key", "state_dict_ema")
    assert code == 0, err
    assert "(imported from b.pth, state_dict_ema.module; not checked: no expected value)" in out
    assert "warning: " in out
    assert "normalisation" in out
    card = json.loads(next(Path("runs").glob("**/teacher.json")).read_bytes())
    assert card["weights"][:8] in typed("teacher", "list")[1]
    code, _, err = typed("teacher", "import", tmp_path / "b.pth", *words, "--accuracy", "nan")
    assert (code, len(err.splitlines())) == (2, 1)
