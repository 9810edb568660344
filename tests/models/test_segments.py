"""Networks run from a stage on."""

from __future__ import annotations

import pytest
import torch

from kdbench.models import build_backbone

pytestmark = pytest.mark.once

NAMES = [
    *("resnet20", "wrn_16_2", "vgg8", "ResNet50", "MobileNetV2", "ShuffleNetV1", "ShuffleNetV2"),
    *("MobileNetV1", "torchvision:resnet18", "torchvision:resnet50"),
]


@pytest.mark.parametrize(
    ("name", "side"), [*((name, 32) for name in NAMES), *(("vgg8", side) for side in (8, 63, 64, 96))]
)
def test_from_each_stage_on_a_network_gives_what_it_gave(name: str, side: int) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, 7, (side, side)).eval()
    segments = backbone.segments()
    assert segments is not None
    with torch.no_grad():
        features = backbone.features(torch.randn(2, 3, side, side), maps=True)
        assert len(segments.steps) == len(features.stages) - 1
        stages = [*features.stages[:-1], segments.close(features.stages[-1])]
        for first, maps in enumerate(stages):
            x = maps
            for step, expected in zip(segments.steps[first:], stages[first + 1 :], strict=True):
                x = step(x)
                assert torch.equal(x, expected)
            assert torch.equal(segments.finish(x), features.penultimate)
    assert segments.activated == all(bool((maps >= 0).all()) for maps in features.stages)
