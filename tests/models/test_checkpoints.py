"""Checkpoints as other code bases write them: whose weights are found, and how the rest is refused."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.methods.simkd import Reusing, bottleneck
from kdbench.models import build_backbone
from kdbench.models.checkpoints import Loaded, load_checkpoint
from kdbench.models.weights import weights_hash
from kdbench.net import Net

pytestmark = pytest.mark.once

Weights = dict[str, Tensor]


def make(seed: int, network: str = "resnet8", classes: int = 3) -> Net:
    torch.manual_seed(seed)
    backbone = build_backbone(network, classes, (16, 16))
    return Net(network, backbone, mean=(0.5,) * 3, std=(1.0,) * 3, image_size=(16, 16))


def weights_of(seed: int, network: str = "resnet8", classes: int = 3) -> Weights:
    return dict(make(seed, network, classes).backbone.state_dict())


def behind(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


W, OTHER = weights_of(1), weights_of(2)
OPTIMIZER = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1).state_dict()
FORMS: dict[str, tuple[Any, str]] = {
    "alone": (W, ""),
    "torch 0.4": ({name: value for name, value in W.items() if not name.endswith("num_batches_tracked")}, ""),
    "averaged counters": ({n: v / 1 if n.endswith("num_batches_tracked") else v for n, v in W.items()}, ""),
    **{name: ({name: W, "epoch": 3}, name) for name in ("model", "net", "state_dict", "model_state_dict", "student")},
    "nested": ({"checkpoint": {"network": {"weights": W}}}, "checkpoint.network.weights"),
    "DataParallel": ({"model": behind("module.", W), "optimizer": OPTIMIZER}, "model.module"),
    "compiled": (behind("_orig_mod.", W), "_orig_mod"),
    "Lightning": (
        {"state_dict": behind("model.", W) | {"criterion.weight": torch.ones(3)}, "hyper_parameters": {"lr": 0.1}},
        "state_dict.model",
    ),
    "several prefixes": (behind("module._orig_mod.model.net.backbone.", W), "module._orig_mod.model.net.backbone"),
    "thop": (W | {"total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1)}, ""),
    "averaged": (behind("module.", W) | {"n_averaged": torch.tensor(5)}, "module"),
    "NumPy": (
        {"model": W, "best": np.argmax([1, 2]), "curve": np.arange(3.0), "flag": np.bool_(1), "f": np.float32(2)},
        "model",
    ),
    "command line": ({"model": W, "opt": argparse.Namespace(lr=0.1, steps=[1, 2], path=None)}, "model"),
    "under two names": ({"model": W, "state_dict": W}, "model"),
    "distiller with a larger teacher": (
        {"model": behind("module.student.", W) | behind("module.teacher.", weights_of(3, "resnet14"))},
        "model.module.student",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_weights_are_found(form: str, tmp_path: Path) -> None:
    content, label = FORMS[form]
    torch.save(content, tmp_path / "c.pth")
    net = make(7)
    assert load_checkpoint(net, tmp_path / "c.pth") == Loaded(label, chosen=False)
    assert weights_hash(net.backbone.state_dict()) == weights_hash(W)


@pytest.mark.parametrize("name", ["c.safetensors", "weights.bin", "c.pth", "c"])
def test_safetensors_have_any_name(name: str, tmp_path: Path) -> None:
    safetensors.torch.save_file(W, tmp_path / name)
    net = make(7)
    load_checkpoint(net, tmp_path / name)
    assert weights_hash(net.backbone.state_dict()) == weights_hash(W)


def test_half_precision_and_old_files_are_read(tmp_path: Path) -> None:
    halves = {name: value.half() if value.is_floating_point() else value for name, value in W.items()}
    torch.save(halves, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    net = make(7)
    load_checkpoint(net, tmp_path / "c.pth")
    assert all(torch.equal(net.backbone.state_dict()[name].to(half.dtype), half) for name, half in halves.items())


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"state_dict": W, "state_dict_ema": OTHER}, ("state_dict", "state_dict_ema")),
        ({"model": W, "model_ema": behind("module.", OTHER)}, ("model", "model_ema")),
        ({"model": W, "ema": {"decay": 0.9, "shadow": OTHER}}, ("model", "ema")),
        (behind("online_model.", W) | behind("ema_model.", OTHER), ("online_model", "ema_model")),
        (W | behind("ema.", OTHER), ("", "ema")),
        ({"model": behind("module.student.", W) | behind("module.teacher.", OTHER)}, ("student", "teacher")),
    ],
)
def test_of_several_weights_one_is_chosen_by_its_key(content: Any, keys: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "c.pth"
    torch.save(content, file)
    with pytest.raises(UserError, match="holds several weights of resnet8: choose with --key one of") as refused:
        load_checkpoint(make(7), file)
    assert all((key or "''") in str(refused.value) for key in keys)
    assert ("student_best" in str(refused.value)) == ("student" in keys)
    for key, expected in zip(keys, (W, OTHER), strict=True):
        net = make(7)
        assert load_checkpoint(net, file, key).chosen
        assert weights_hash(net.backbone.state_dict()) == weights_hash(expected)
    with pytest.raises(UserError, match="no weights of resnet8 under 'nothing': type --key with one of"):
        load_checkpoint(make(7), file, "nothing")


def refusal(path: Path, net: Net | None = None) -> str:
    """The one line that refuses a checkpoint."""
    with pytest.raises(UserError) as refused:
        load_checkpoint(net or make(7), path)
    text = str(refused.value)
    assert text.isprintable()
    assert str(path) in text
    assert "weights_only" not in text
    return text


def changed(name: str, value: Tensor) -> Weights:
    return behind("module.", W | {name: value})


FC = W["fc.weight"]
UNUSABLE: dict[str, Callable[[], tuple[Weights, str]]] = {
    "NaN": lambda: (changed("fc.weight", FC * torch.nan), "holds values that are not finite"),
    "infinite": lambda: (changed("fc.weight", FC / 0), "holds values that are not finite"),
    "too large": lambda: (changed("fc.weight", FC.double() * 1e300), "holds values that are not finite"),
    "int8": lambda: (changed("fc.weight", FC.to(torch.int8)), "holds int8, not float32"),
    "complex": lambda: (changed("fc.weight", FC.to(torch.complex64)), "holds complex64, not float32"),
    "sparse": lambda: (changed("fc.weight", FC.to_sparse()), "is sparse"),
    "meta": lambda: (changed("fc.weight", FC.to("meta")), "has no values"),
}


@pytest.mark.parametrize("form", UNUSABLE)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_weights_that_are_no_numbers_of_the_networks_kind(form: str, tmp_path: Path) -> None:
    content, reason = UNUSABLE[form]()
    torch.save(content, tmp_path / "c.pth")
    text = refusal(tmp_path / "c.pth")
    assert f"entry module.fc.weight {reason}" in text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (weights_of(1, classes=1000), "it has 1,000 classes."),
        (behind("net.", {n: v for n, v in W.items() if n != "fc.bias"}), "1 missing (net.fc.bias)"),
        (behind("net.", W | {"neck.weight": FC}), "1 unknown (net.neck.weight)"),
        (weights_of(1, "resnet14"), "unknown (layer1.1."),
        ({"a": torch.ones(2)}, "missing"),
        ([1, 2], "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
        (torch.ones(2), "holds no state dict"),
    ],
)
def test_weights_of_another_network_are_named_as_in_the_file(content: Any, text: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "c.pth")
    assert text in refusal(tmp_path / "c.pth")


def test_names_of_timm_are_those_of_the_file(tmp_path: Path) -> None:
    net = make(7, "timm:test_resnet")
    weights = {name.removeprefix("model."): value for name, value in net.backbone.state_dict().items()}
    torch.save({"model": {name: value for name, value in weights.items() if name != "fc.bias"}}, tmp_path / "c.pth")
    assert "1 missing (fc.bias)" in refusal(tmp_path / "c.pth", net)


def test_a_student_of_simkd_is_named(tmp_path: Path) -> None:
    teacher, body = make(1, "resnet14"), make(2)
    reusing = Reusing(body.backbone, bottleneck(64, 64, 2), teacher.backbone.head(), (4, 4))
    safetensors.torch.save_file(reusing.state_dict(), tmp_path / "model.safetensors")
    assert "is a student of simkd" in refusal(tmp_path / "model.safetensors")
    torch.save({"model": W, "proj": dict(bottleneck(64, 64, 2).state_dict())}, tmp_path / "c.pth")
    assert "is a student of simkd" in refusal(tmp_path / "c.pth")
