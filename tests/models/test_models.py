"""Networks: state-dict names, stored reference values, sizes."""

from __future__ import annotations

import json
from typing import Any

import parity_files
import pytest
import torch
from parity_files import FOLDER, fill_by_formula, formula_images, load
from torch import Tensor, nn

from kdbench.models import NETWORKS, build_backbone, canonical_network
from kdbench.net import PARTS, Backbone, Features, Net

pytestmark = pytest.mark.once

IMAGENET = "imagenet_"
STATE_DICTS = sorted(p.stem for p in (FOLDER / "models" / "state_dicts").glob("*.json") if p.stem != "summary")
FILES = parity_files.names("models")
ONE_OF_EACH = ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleNetV1", "ShuffleNetV2"]


def names(start: str) -> list[str]:
    return [name for name in FILES if name.startswith(start)]


def network_of(reference: str) -> str:
    """The network that a reference is of: those for large images have torchvision's name, if it has them."""
    name = reference.removeprefix(IMAGENET)
    return f"torchvision:{name.lower()}" if name != reference and name.startswith("ResNet") else name


def on_meta(name: str, num_classes: int) -> Backbone:
    with torch.device("meta"):
        return build_backbone(name, num_classes, (32, 32))


def count_macs(backbone: Backbone, images: Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image."""
    macs = 0

    def add(module: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal macs
        assert isinstance(module.weight, Tensor)
        macs += module.weight[0].numel() * out[0].numel()

    hooks = [m.register_forward_hook(add) for m in backbone.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    backbone.head()(backbone.features(images, maps=False).penultimate)
    for hook in hooks:
        hook.remove()
    return macs


@pytest.mark.parametrize("name", [name for name in STATE_DICTS if not name.startswith(IMAGENET)])
def test_same_state_dict_and_shapes_as_the_reference(name: str) -> None:
    reference = json.loads((FOLDER / "models" / "state_dicts" / f"{name}.json").read_text())["mdistiller"]
    backbone = on_meta(name, 100)
    state = [[key, list(value.shape)] for key, value in backbone.state_dict().items()]
    assert state == reference["state_dict"]
    assert sum(p.numel() for p in backbone.parameters()) == reference["parameters"]
    images = torch.zeros(1, 3, 32, 32, device="meta")
    assert count_macs(backbone.eval(), images) == reference["macs_32x32"]
    features = backbone.features(images, maps=True)
    assert features.stem is not None
    assert [list(m.shape[1:]) for m in (features.stem, *features.stages)] == reference["feats"]
    assert list(features.penultimate.shape[1:]) == reference["pooled_feat"]
    if reference["preact_feats"] is None:
        assert features.preact is None
    else:
        assert features.preact is not None
        assert [list(m.shape[1:]) for m in features.preact] == reference["preact_feats"][1:]


@pytest.mark.parametrize("name", [name for name in STATE_DICTS if name.startswith(IMAGENET)])
def test_same_state_dict_as_the_reference_for_large_images(name: str) -> None:
    reference = json.loads((FOLDER / "models" / "state_dicts" / f"{name}.json").read_text())
    backbone = on_meta(network_of(name), 1000)
    state = [[key.removeprefix(backbone.PREFIX), list(value.shape)] for key, value in backbone.state_dict().items()]
    assert state == reference["state_dict"]
    assert sum(p.numel() for p in backbone.parameters()) == reference["parameters"]


def test_every_family_has_a_reference() -> None:
    without = {"vgg11", "vgg16", "vgg19"}
    assert {canonical_network(network_of(name)) for name in STATE_DICTS} == set(NETWORKS) - without


def filled(case: parity_files.Case, name: str) -> tuple[Backbone, Tensor]:
    """The network in float64 with the weights of a formula, and the images."""
    side = int(case.value("hp.input_size")) if "hp.input_size" in case.arrays else 32
    backbone = build_backbone(name, int(case.value("hp.num_classes")), (side, side))
    k0 = int(case.value("hp.k0"))
    backbone.load_state_dict(fill_by_formula(backbone.state_dict(), k0, case.value("hp.bn_scale")))
    images = formula_images((int(case.value("hp.batch")), 3, side, side), int(case.value("hp.input_k")))
    return backbone.double(), images.double()


def check_maps(case: parity_files.Case, name: str, maps: tuple[Tensor, ...], first: int = 1) -> None:
    """Compare the mean and root mean square of maps ``first``, ... by channel."""
    assert f"out.{name}_mean.{first + len(maps) - 1}" in case.arrays
    assert f"out.{name}_mean.{first + len(maps)}" not in case.arrays
    for i, m in enumerate(maps, start=first):
        check_map(case, name, i, m)


def check_map(case: parity_files.Case, name: str, i: int, values: Tensor) -> None:
    """Compare the mean and root mean square of map i by channel."""
    case.check(f"out.{name}_mean.{i}", values.mean((2, 3)))
    case.check(f"out.{name}_rms.{i}", values.square().mean((2, 3)).sqrt())


@pytest.mark.parametrize("file", names("formula_"))
@torch.no_grad()
def test_eval_mode_agrees_with_the_reference(file: str) -> None:
    case = load("models", file)
    backbone, images = filled(case, network_of(file.removeprefix("formula_")))
    features = backbone.eval().features(images, maps=True)
    case.check("out.pooled", features.penultimate)
    case.check("out.logits", backbone.head()(features.penultimate))
    assert features.stem is not None
    # The reference for MobileNetV1 has no stem: its first map is the first stage's.
    first = 0 if file == "formula_imagenet_MobileNetV1" else 1
    check_maps(case, "feats", features.stages, first)
    if first:
        check_map(case, "feats", 0, features.stem)
    if features.preact is None:
        assert not any(key.startswith("out.preact") for key in case.arrays)
    else:
        check_maps(case, "preact", features.preact, first)


@pytest.mark.parametrize("file", names("checkpoint_"))
@torch.no_grad()
def test_reference_checkpoints_load_as_they_are(file: str) -> None:
    case = load("models", file)
    checkpoint = torch.load(FOLDER / "models" / case.meta["checkpoint"], weights_only=True)
    name = file.removeprefix("checkpoint_").rpartition("_")[0]
    backbone = build_backbone(name, case.meta["num_classes"], (32, 32))
    backbone.load_state_dict(checkpoint["model"])
    features = backbone.double().eval().features(torch.from_numpy(case.arrays["in.images"]).double(), maps=True)
    case.check("out.logits", backbone.head()(features.penultimate))
    case.check("out.pooled_feat", features.penultimate)
    for kind, maps in (("feats", features.stages), ("preact_feats", features.preact or ())):
        for i, m in enumerate(maps, start=1):
            stored = torch.from_numpy(case.arrays[f"out.{kind}.{i}"])  # in float32
            torch.testing.assert_close(m.float(), stored, rtol=1e-6, atol=1e-6 * stored.abs().max().item())


# mdistiller evaluates these three batch norms twice in each pass, a deviation that we do not follow.
TWICE_IN_MDISTILLER = ("block2.layer.0.bn1.", "block3.layer.0.bn1.", "bn1.")


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("file", names("train_"))
def test_training_mode_agrees_with_the_reference(file: str, maps: bool) -> None:
    case = load("models", file)
    name = file.removeprefix("train_").rpartition("_")[0]
    backbone, images = filled(case, name)
    features = backbone.train().features(images, maps=maps)
    logits = backbone.head()(features.penultimate)
    ce = nn.functional.cross_entropy(logits, case.tensor("in.target"))
    ce.backward()
    case.check("out.pooled", features.penultimate)
    case.check("out.logits", logits)
    case.check("out.ce", ce)
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None
        case.check(f"grad_l2.{key}", parameter.grad.norm())
        case.check(f"grad_dot_w.{key}", (parameter.grad * parameter).sum())
    deviates = TWICE_IN_MDISTILLER if file == "train_wrn_16_1_md" else ()
    for key, buffer in backbone.named_buffers():
        if not key.startswith(deviates):
            case.check(f"buf_after1.{key}", buffer)
        elif key.endswith("num_batches_tracked"):
            assert (buffer.item(), case.value(f"buf_after1.{key}")) == (1, 2)


@pytest.mark.parametrize("size", [8, 28, 32, 64])
@pytest.mark.parametrize("name", NETWORKS)
def test_runs_on_images_of_several_sizes(name: str, size: int) -> None:
    features = on_meta(name, 10).features(torch.zeros(2, 3, size, size, device="meta"), maps=True)
    assert all(min(m.shape[2:]) >= 1 for m in features.stages)
    assert len({m.shape for m in features.stages}) >= len(features.stages) - 1


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (30, 17), (64, 64)])
@pytest.mark.parametrize("name", ONE_OF_EACH)
@torch.no_grad()
def test_values_are_finite_for_one_image(name: str, height: int, width: int) -> None:
    backbone = build_backbone(name, 10, (height, width)).eval()
    features = backbone.features(torch.randn(1, 3, height, width), maps=True)
    logits = backbone.head()(features.penultimate)
    assert logits.shape == (1, 10)
    assert logits.isfinite().all()
    assert all(m.isfinite().all() for m in features.stages)


@pytest.mark.parametrize(
    "name", [*("resnet8x4", "wrn_16_2", "vgg13", "ShuffleNetV1", "ShuffleNetV2", "MobileNetV1", "torchvision:resnet18")]
)
def test_no_map_is_overwritten(name: str) -> None:
    backbone = build_backbone(name, 10, (32, 32)).train()
    features = backbone.features(torch.randn(4, 3, 32, 32), maps=True)
    assert features.preact is not None
    for after, before in zip(features.stages, features.preact, strict=True):
        assert (before < 0).any()
        assert after._version == before._version == 0
        if not name.startswith(("wrn", "ShuffleNetV2")):
            assert torch.equal(after, before.relu())
    (features.penultimate.sum() + sum(m.sum() for m in (*features.stages, *features.preact))).backward()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_without_maps_the_penultimate_features_are_the_same(name: str) -> None:
    backbone = build_backbone(name, 10, (16, 16)).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        plain, full = (backbone.features(images, maps=maps) for maps in (False, True))
    assert plain.stages == ()
    assert torch.equal(plain.penultimate, full.penultimate)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("maps", [False, True])
def test_the_mean_of_the_map_is_the_penultimate(name: str, maps: bool) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, 10, (32, 32)).double().eval()
    with torch.no_grad():
        features = backbone.features(torch.randn(2, 3, 32, 32, dtype=torch.float64), maps=maps)
    assert features.map is not None
    torch.testing.assert_close(features.map.mean(dim=(2, 3)), features.penultimate, rtol=1e-12, atol=1e-12)
    if name not in ("MobileNetV2", "ShuffleNetV2") and not name.startswith("wrn") and maps:
        assert features.map is features.stages[-1]


def test_initialisation_follows_the_reference() -> None:
    torch.manual_seed(0)
    resnet = build_backbone("resnet8x4", 100, (32, 32)).state_dict()
    weight = resnet["layer3.0.conv2.weight"]
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert resnet["fc.bias"].abs().max() > 0
    assert (build_backbone("wrn_16_1", 10, (32, 32)).head().bias == 0).all()
    vgg = build_backbone("vgg8", 100, (32, 32)).state_dict()
    assert (vgg["block3.0.bias"] == 0).all()
    for name in ("vgg8", "MobileNetV2"):
        head = build_backbone(name, 100, (32, 32)).head()
        assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert (head.bias == 0).all()
    shuffle = build_backbone("ShuffleNetV2", 100, (32, 32)).state_dict()["conv2.weight"]
    assert shuffle.abs().max().item() <= 464**-0.5  # torch's own uniform default


def test_a_seed_gives_the_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_backbone("resnet8", 10, (32, 32)).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_net_normalises_its_input_and_knows_its_shapes() -> None:
    backbone = build_backbone("resnet8", 7, (32, 32))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    net = Net("resnet8", backbone, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5), image_size=(32, 32))
    assert net.shapes == ((16, 32, 32), (32, 16, 16), (64, 8, 8))
    assert net.stem_shape == (16, 32, 32)
    assert (net.width, net.num_classes, net.has_preact) == (64, 7, True)
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    normalised = (images - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.5]).view(3, 1, 1)
    net.double().eval()
    outputs = net(images, PARTS)
    direct: Features = backbone.features(normalised, maps=True)
    torch.testing.assert_close(outputs.penultimate, direct.penultimate)
    torch.testing.assert_close(outputs.logits, backbone.head()(direct.penultimate))
    assert not Net(
        "m", build_backbone("MobileNetV2", 7, (8, 8)), mean=(0.5,) * 3, std=(1,) * 3, image_size=(8, 8)
    ).has_preact
