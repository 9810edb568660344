"""Names of networks: their spellings, and those that mean one network for small images and another for large ones."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol, load_protocol
from kdbench.models import LARGE, NETWORKS, canonical_network
from kdbench.models.build import check_name


def image_files(side: int) -> Protocol:
    protocol = load_protocol("cifar100-crd-v1")
    crop = {"crop": "resized", "pad": None, "crop_size": side, "evaluation_size": side + 32}
    crop |= {"crop_scale": (0.08, 1.0), "crop_ratio": (0.75, 4 / 3), "interpolation": "bilinear"}
    return dataclasses.replace(protocol, rules=protocol.rules.replace(**crop))


@pytest.mark.parametrize(
    ("spelling", "remedy"),
    [
        ("ResNet-50", "type torchvision:resnet50"),
        ("mobilenet_v2", "type MobileNetV1, which many papers call MobileNetV2 there, or timm:mobilenetv2_100"),
        ("vgg13", "type timm:vgg13_bn"),
        ("ShuffleV2", "choose another network"),
    ],
)
def test_large_images_do_not_get_the_network_for_small_ones(spelling: str, remedy: str) -> None:
    name = canonical_network(spelling)
    with pytest.raises(UserError, match=f"^{name} is here the network for small images, .*224x224.*: .*{remedy}$"):
        check_name(name, image_files(224))
    check_name(name, image_files(64))
    check_name(name, load_protocol("cifar100-crd-v1"))


def test_every_other_name_means_one_network() -> None:
    for name in (*NETWORKS, "timm:resnet50"):
        if name not in LARGE:
            check_name(name, image_files(224))


@pytest.mark.parametrize("spelling", ["resnet18", "ResNet-34"])
def test_a_network_for_large_images_alone_is_named_with_its_source(spelling: str) -> None:
    name = spelling.lower().replace("-", "")
    with pytest.raises(UserError, match=f"no network '{spelling}' .*: type torchvision:{name} "):
        canonical_network(spelling)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("WRN-40-2", "wrn_40_2"),
        ("wrn40-2", "wrn_40_2"),
        ("WideResNet-16-1", "wrn_16_1"),
        ("ResNet32x4", "resnet32x4"),
        ("ResNet-32x4", "resnet32x4"),
        ("ResNet8×4", "resnet8x4"),
        ("resnet 8 x4", "resnet8x4"),
        ("ResNet-110", "resnet110"),
        ("ResNet-50", "ResNet50"),
        ("VGG-13", "vgg13"),
        ("ShuffleV1", "ShuffleNetV1"),
        ("ShuffleNet-V1", "ShuffleNetV1"),
        ("shuffle_v2", "ShuffleNetV2"),
        ("MobileNet-V2", "MobileNetV2"),
        ("mobilenet v1", "MobileNetV1"),
        ("TorchVision: ResNet-18", "torchvision:resnet18"),
        ("Timm:vit_tiny_patch16_224", "timm:vit_tiny_patch16_224"),
        *((name, name) for name in NETWORKS),
    ],
)
def test_spellings(spelling: str, name: str) -> None:
    assert canonical_network(spelling) == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet33", "resnet32"),
        ("wrn_40_3", "wrn_40_2"),
        ("zebra", "list networks"),
        ("torchvision:resnet20", "torchvision:resnet50"),
    ],
)
def test_an_unknown_name_is_refused_with_a_remedy(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint) as caught:
        canonical_network(name)
    assert "kdbench list networks" in str(caught.value)


def test_names_need_no_torch() -> None:
    code = "import sys, kdbench.models; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
