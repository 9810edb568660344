"""timm's networks as backbones: what they give, and which are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdbench.models import build_backbone, canonical_network, parse_pair
from kdbench.models.timm_adapter import TimmBackbone
from kdbench.net import PARTS, Net

# name, side of the images, the stages' (C, H, W)
ACCEPTED = [
    ("test_resnet", 32, [(32, 8, 8), (48, 4, 4), (192, 2, 2), (96, 1, 1)]),
    ("test_resnet", 8, [(32, 2, 2), (96, 1, 1)]),
    ("resnet18.a1_in1k", 64, [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]),
    ("test_vit", 32, [(64, 2, 2)]),
    ("test_vit", 28, [(64, 2, 2)]),
    ("test_vit_relpos", 8, [(96, 2, 2)]),
    ("vit_tiny_patch16_224", 32, [(192, 2, 2)]),
    ("vit_tiny_patch16_224", 28, [(192, 2, 2)]),
    ("swin_tiny_patch4_window7_224", 32, [(96, 8, 8), (192, 4, 4), (384, 2, 2), (768, 1, 1)]),
    ("test_convnext", 32, [(24, 8, 8), (32, 4, 4), (48, 2, 2), (64, 1, 1)]),
    ("pvt_v2_b0", 32, [(32, 8, 8), (64, 4, 4), (160, 2, 2), (256, 1, 1)]),
    ("test_efficientnet", 64, [(16, 32, 32), (24, 16, 16), (32, 8, 8), (48, 4, 4), (64, 2, 2)]),
    ("test_byobnet", 32, [(32, 8, 8), (64, 4, 4), (128, 2, 2), (256, 1, 1)]),
    ("test_coatnet", 64, [(32, 16, 16), (64, 8, 8), (96, 4, 4), (128, 2, 2)]),
    ("test_mambaout", 32, [(16, 8, 8), (32, 4, 4), (48, 2, 2), (64, 1, 1)]),
    ("mobilenetv3_small_050", 32, [(8, 8, 8), (16, 4, 4), (24, 2, 2), (288, 1, 1)]),
    ("densenet121", 32, [(256, 8, 8), (512, 4, 4), (1024, 2, 2), (1024, 1, 1)]),
]

REFUSED = [
    ("deit_tiny_distilled_patch16_224", 32, "2 classifiers"),
    ("resnetv2_50x1_bit", 32, "classifier is Conv2d, not a linear layer"),
    ("mixer_s16_224", 28, "patches of 16x16 do not divide"),
    ("test_convnext", 8, "images of 8x8: RuntimeError"),
    ("resnet18.nope", 32, "Invalid pretrained tag"),
    ("resnet_18", 32, "timm:resnet18"),
    ("hf-hub:someone/something", 32, "has no network"),
    ("zebra", 32, "has no network 'zebra'"),
]


@pytest.mark.parametrize(("name", "side", "shapes"), ACCEPTED)
@torch.no_grad()
def test_gives_stages_and_the_classifiers_input(name: str, side: int, shapes: list[tuple[int, int, int]]) -> None:
    backbone = build_backbone(f"timm:{name}", 10, (side, side))
    assert isinstance(backbone, TimmBackbone)
    assert backbone.training
    backbone.eval()
    images = torch.randn(3, 3, side, side)
    features = backbone.features(images, maps=True)
    assert [tuple(m.shape[1:]) for m in features.stages] == shapes
    assert features.preact is None
    plain = backbone.features(images, maps=False)
    assert plain.stages == ()
    expected = backbone.model(images)
    for penultimate in (features.penultimate, plain.penultimate):
        assert penultimate.shape == (3, backbone.head().in_features)
        torch.testing.assert_close(backbone.head()(penultimate), expected)


NO_MAP = {
    "test_vit": "tokens",
    "test_vit_relpos": "tokens",
    "vit_tiny_patch16_224": "tokens",
    "test_convnext": "layers between",
    "test_mambaout": "layers between",
    "mobilenetv3_small_050": "layers between",
}


@pytest.mark.parametrize(("name", "side"), [(name, side) for name, side, _ in ACCEPTED])
@torch.no_grad()
def test_the_mean_of_the_map_is_the_penultimate_or_there_is_a_reason(name: str, side: int) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(f"timm:{name}", 10, (side, side)).double().eval()
    images = torch.randn(3, 3, side, side, dtype=torch.float64)
    for maps in (False, True):
        features = backbone.features(images, maps=maps)
        if name in NO_MAP:
            assert features.map is None
            assert NO_MAP[name] in backbone.map_absence()
        else:
            assert features.map is not None
            torch.testing.assert_close(features.map.mean(dim=(2, 3)), features.penultimate, rtol=1e-9, atol=1e-9)
    net = Net(name, backbone.float(), mean=(0.5,) * 3, std=(0.2,) * 3, image_size=(side, side))
    assert (net.map_shape is None) is (name in NO_MAP) is ("map" in net.absent)


@pytest.mark.parametrize(("name", "side", "reason"), REFUSED)
def test_refuses_by_name_and_reason(name: str, side: int, reason: str) -> None:
    with pytest.raises(ValueError, match="timm") as caught:
        build_backbone(f"timm:{name}", 10, (side, side))
    message = str(caught.value)
    assert name in message
    assert reason in message
    assert "\n" not in message


class Odd(nn.Module):
    """A classifier whose parts can be made to disagree with its forward pass."""

    def __init__(self, fault: str, num_classes: int) -> None:
        super().__init__()
        self.fault = fault
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Identity() if fault == "identity" else nn.Linear(4, num_classes)
        if fault == "hidden":
            self.forward_intermediates = None

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    def forward_intermediates(self, x: torch.Tensor, indices: list[int] | None = None):
        x = self.conv(x)
        return (x + 1 if self.fault == "intermediates" else x), [x.flatten(1) if self.fault == "flat" else x]

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor):
        logits = self.forward_head(self.forward_features(x))
        if self.fault == "scaled":
            return 2 * logits
        return (logits, logits) if self.fault == "tuple" else logits


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("identity", "classifier is Identity"),
        ("hidden", "no forward_intermediates"),
        ("flat", "maps of four dimensions"),
        ("scaled", "not its classifier applied to the features of forward_features"),
        ("intermediates", "not its classifier applied to the features of forward_intermediates"),
        ("tuple", "gives tuple"),
    ],
)
def test_refuses_a_model_whose_parts_disagree(fault: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, *, pretrained: bool, num_classes: int, **options: object) -> nn.Module:
        assert not pretrained
        if options:
            raise TypeError("unexpected keyword argument 'img_size'")
        return Odd(fault, num_classes)

    monkeypatch.setattr("timm.create_model", create)
    with pytest.raises(ValueError, match=f"^timm:resnet18 cannot be used: .*{reason}"):
        TimmBackbone("resnet18", 10, (8, 8))


def test_training_updates_a_batch_norm_once_and_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    for name in ("test_resnet", "test_vit"):
        backbone = build_backbone(f"timm:{name}", 10, (32, 32)).train()
        features = backbone.features(torch.randn(4, 3, 32, 32), maps=True)
        backbone.head()(features.penultimate).square().sum().backward()
        assert all(p.grad is not None for p in backbone.parameters())
        for key, buffer in backbone.named_buffers():
            if key.endswith("num_batches_tracked"):
                assert buffer.item() == 1


def test_building_is_reproducible_and_leaves_no_statistics_behind() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(build_backbone("TIMM:test_resnet", 10, (32, 32)).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert states[0]["model.bn1.num_batches_tracked"] == 0


def test_as_a_net() -> None:
    net = Net(
        "timm:test_vit",
        build_backbone("timm:test_vit", 10, (32, 32)),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        image_size=(32, 32),
    )
    assert net.shapes == ((64, 2, 2),)
    assert net.stem_shape is None
    assert (net.width, net.num_classes, net.has_preact) == (64, 10, False)
    outputs = net(torch.rand(2, 3, 32, 32), PARTS - {"preact", "stem"})
    assert outputs.logits.shape == (2, 10)


@pytest.mark.parametrize("name", ["timm:resnet18.a1_in1k", "Timm: resnet18.a1_in1k", "timm:resnet18."])
def test_a_tag_of_pretrained_weights_is_refused(name: str) -> None:
    """It would name a second cell, and claim weights that are not loaded."""
    with pytest.raises(ValueError, match=r"names pretrained weights.*: type timm:resnet18,.*--network timm:resnet18'"):
        canonical_network(name)
    with pytest.raises(ValueError, match="names pretrained weights"):
        parse_pair(f"resnet8>{name}")


def test_a_network_that_an_earlier_version_named_with_a_tag_is_still_built() -> None:
    assert build_backbone("timm:test_resnet.r160_in1k", 10, (32, 32)).head().out_features == 10
