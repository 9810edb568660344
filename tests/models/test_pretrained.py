"""Published weights: their names, their files in the caches of both packages, and the networks that they fit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import urllib.error
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torchvision

from kdbench.data.datasets import Dataset, load_dataset
from kdbench.data.subsets import subset
from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol, load_protocol
from kdbench.models import build_backbone, pretrained
from kdbench.models.bring import make_start, own_normalisation
from kdbench.models.pretrained import Published, find_source

pytestmark = pytest.mark.once

TAGGED = "timm:test_resnet.r160_in1k"
RESNET18 = "torchvision:resnet18"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and no network."""

    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    return tmp_path


def in_hub(folder: Path, tagged: str = TAGGED) -> dict[str, torch.Tensor]:
    """Put weights of a network of timm's where the hub's client keeps them; return them."""
    torch.manual_seed(1)
    model = timm.create_model(tagged.removeprefix("timm:"), pretrained=False)
    repository = folder / "hub" / f"models--timm--{tagged.removeprefix('timm:')}"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(weights, snapshot / "model.safetensors")
    return weights


@pytest.fixture
def digits() -> Dataset:
    return subset(load_dataset("digits", Path()), 2, 10)


def rules(**changes: Any) -> Protocol:
    return load_protocol("digits-demo-v1").override(**changes)


def test_torchvision_says_what_its_weights_are() -> None:
    published = {known.name: known for known in pretrained._published("torchvision:resnet34")}
    (first,) = published.values()
    assert first.name == "torchvision:resnet34.IMAGENET1K_V1"
    assert first.accuracy == pytest.approx(73.31, abs=0.01)  # as papers print it
    assert (first.mean, first.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (first.size, first.evaluation_size, first.interpolation) == (224, 256, "bilinear")
    assert first.digits == "b627a593"
    resnet50 = [known.accuracy for known in pretrained._published("torchvision:resnet50")]
    assert resnet50 == pytest.approx([76.13, 80.86], abs=0.01)


def test_timm_says_how_its_weights_see_images() -> None:
    published = {known.name: known for known in pretrained._published("timm:resnet34")}
    assert published["timm:resnet34.ra4_e3600_r224_in1k"].mean == (0.5, 0.5, 0.5)
    a1 = published["timm:resnet34.a1_in1k"]
    assert (a1.repository, a1.accuracy) == ("timm/resnet34.a1_in1k", None)
    assert (a1.size, a1.input_size, a1.interpolation, a1.digits) == (288, 224, "bicubic", "46f8f793")


def test_weights_in_the_hubs_cache_are_loaded_by_name(caches: Path, digits: Dataset) -> None:
    weights = in_hub(caches)
    start, other_classes = make_start("timm:test_resnet", TAGGED, rules(), digits)
    assert other_classes == 1000
    assert start.weights.keys() == {f"model.{name}" for name in weights if not name.startswith("fc.")}
    assert all(torch.equal(value, weights[name.removeprefix("model.")]) for name, value in start.weights.items())
    assert start.origin == TAGGED
    published = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    assert start.normalisation == (published.mean, published.std)


def test_timm_fits_a_transformer_to_the_size_of_the_images(caches: Path, digits: Dataset) -> None:
    """Its position embeddings are those of 160 x 160, the images are 8 x 8 here."""
    weights = in_hub(caches, "timm:test_vit.r160_in1k")
    start, _ = make_start("timm:test_vit", "timm:test_vit.r160_in1k", rules(), digits)
    assert start.weights["model.pos_embed"].shape != weights["pos_embed"].shape
    assert torch.equal(start.weights["model.norm.weight"], weights["norm.weight"])


def test_weights_in_torchs_cache_are_loaded_by_name(
    caches: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    model = torchvision.models.resnet18(weights=None)
    file = caches / "torch" / "hub" / "checkpoints" / "x.pth"
    file.parent.mkdir(parents=True)
    torch.save(model.state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file = file.rename(file.with_name(f"resnet18-{digest[:8]}.pth"))
    known = next(pretrained._published(RESNET18))
    known = dataclasses.replace(known, url=f"https://models/{file.name}")
    monkeypatch.setattr(pretrained, "_published", lambda network: iter([known] if network == RESNET18 else []))
    start, other_classes = make_start(RESNET18, "Torchvision:ResNet18.imagenet1k_v1", rules(), digits)
    assert other_classes == 1000
    assert torch.equal(start.weights["model.conv1.weight"], model.conv1.weight)
    # The same file is known wherever it lies and whatever it is called.
    shutil.copy(file, caches / "mine.pth")
    source = find_source(str(caches / "mine.pth"), RESNET18)
    assert source.published == known
    assert source.origin == f"mine.pth, {RESNET18}.IMAGENET1K_V1"
    assert find_source(str(caches / "mine.pth"), RESNET18, identify=False).published is None
    again, _ = make_start(RESNET18, str(caches / "mine.pth"), rules(), digits)
    assert again.hash == start.hash
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"is not the file of .*: delete it"):
        make_start(RESNET18, f"{RESNET18}.IMAGENET1K_V1", rules(), digits)


def test_a_file_from_the_hub_is_known_by_the_configuration_beside_it(caches: Path) -> None:
    config = {"architecture": "resnet18", "pretrained_cfg": {"tag": "mine", "input_size": [3, 64, 64]}}
    config["pretrained_cfg"] |= {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "crop_pct": 0.5}
    config["pretrained_cfg"] |= {"interpolation": "bicubic"}
    file = caches / "model.safetensors"
    file.write_bytes(b"anything")
    (caches / "config.json").write_text(json.dumps(config))
    published = find_source(str(file), RESNET18).published
    assert published is not None
    assert published.name == "timm:resnet18.mine"
    assert (published.size, published.evaluation_size) == (64, 128)
    assert own_normalisation(find_source(str(file), RESNET18), rules()) == ((0.5,) * 3, (0.2,) * 3)
    same = rules(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    assert own_normalisation(find_source(str(file), RESNET18), same) is None
    assert find_source(str(file), "resnet8").published is None
    for damaged in ("{", "[]", '{"architecture": "resnet18", "pretrained_cfg": {"tag": "mine"}}'):
        (caches / "config.json").write_text(damaged)
        assert find_source(str(file), RESNET18).published is None


@pytest.mark.parametrize(
    ("text", "network", "message"),
    [
        ("torchvision:resnet34.IMAGENET1K_V1", "torchvision:resnet34", "fetch https://.*/resnet34-b627a593.pth else"),
        ("timm:resnet34.a1_in1k", "torchvision:resnet34", "fetch https://huggingface.co/timm/resnet34.a1_in1k/.* else"),
        ("torchvision:resnet34.V3", "torchvision:resnet34", "type one of torchvision:resnet34.IMAGENET1K_V1$"),
        ("torchvision:resnet34", "torchvision:resnet34", "type one of torchvision:resnet34.IMAGENET1K_V1$"),
        ("timm:test_resnet.nope", "timm:test_resnet", f"type one of {TAGGED}$"),
        (
            "torchvision:resnet34.IMAGENET1K_V1",
            RESNET18,
            "weights of torchvision:resnet34, not of torchvision:resnet18",
        ),
        ("timm:zebra.in1k", "timm:zebra", "none are published"),
        ("nowhere.pth", "resnet8", "there is no checkpoint nowhere.pth"),
        ("timm:resnet18.a1_in1k", "timm:resnet18", "one function .*: type torchvision:resnet18$"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(text: str, network: str, message: str, digits: Dataset) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_start(network, text, rules(), digits)
    assert "\n" not in str(caught.value)


def test_timm_and_torchvision_have_the_same_function_of_the_same_weights() -> None:
    """That is why given weights have one name; fresh ones differ, so fresh networks have two."""
    torch.manual_seed(0)
    for name in ("resnet18", "resnet34", "resnet50"):
        theirs, ours = build_backbone(f"timm:{name}", 7, (32, 32)), build_backbone(f"torchvision:{name}", 7, (32, 32))
        last = "bn3" if name == "resnet50" else "bn2"
        assert (theirs.state_dict()[f"model.layer1.0.{last}.weight"] == 0).all()
        assert (ours.state_dict()[f"model.layer1.0.{last}.weight"] == 1).all()
        weights = {k: v + 0.1 if k.endswith("weight") and v.ndim == 1 else v for k, v in ours.state_dict().items()}
        ours.load_state_dict(weights)
        assert list(theirs.state_dict()) == list(weights)
        theirs.load_state_dict(weights)
        images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
        with torch.no_grad():
            one, other = (net.double().eval().features(images, maps=True) for net in (theirs, ours))
        torch.testing.assert_close(one.penultimate, other.penultimate, rtol=1e-12, atol=1e-12)
        for left, right in zip(one.stages, other.stages, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_an_accuracy_counts_where_test_images_are_made_alike() -> None:
    published = Published(
        name="n", url="", mean=(0.5,) * 3, std=(0.5,) * 3, size=224, input_size=224, evaluation_size=256,
        interpolation="bilinear", accuracy=73.31,
    )  # fmt: skip
    crop = {"crop": "resized", "pad": None, "crop_size": 224, "crop_scale": (0.08, 1.0), "crop_ratio": (0.75, 4 / 3)}
    here = {"dataset": "imagenet", "interpolation": "bilinear", "evaluation_size": 256}
    base = load_protocol("digits-demo-v1")

    def under(**changes: Any) -> float | None:
        protocol = dataclasses.replace(base, rules=base.rules.replace(**crop | here | changes))
        return published.accuracy_under(protocol)

    assert under() == 73.31
    for change in ({"evaluation_size": 232}, {"interpolation": "bicubic"}, {"crop_size": 160}, {"dataset": "mine"}):
        assert under(**change) is None
