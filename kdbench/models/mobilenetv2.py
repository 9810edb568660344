"""MobileNetV2 for small images: half width, expansion 6, a stem of stride 2.

Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, arXiv 1801.04381, with ReLU in
place of ReLU6. State-dict names are those of RepDistiller and mdistiller.
"""

from __future__ import annotations

import itertools
from typing import final

from torch import Tensor, nn

from kdbench.models.layers import conv1x1, conv3x3, initialise_convs, initialise_small, pooled
from kdbench.net import Backbone, Features, Segments

BLOCKS = (
    # expansion, channels, number of blocks, stride of the first
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
STAGE_ENDS = (1, 2, 4, 6)


@final
class InvertedResidual(nn.Module):
    """Expand, filter by channel, project; no activation follows."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * in_channels
        self.conv = nn.Sequential(
            *(conv1x1(in_channels, wide), nn.BatchNorm2d(wide), nn.ReLU()),
            *(conv3x3(wide, wide, stride, groups=wide), nn.BatchNorm2d(wide), nn.ReLU()),
            *(conv1x1(wide, channels), nn.BatchNorm2d(channels)),
        )
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, H, W)`` to ``(B, C, H / stride, W / stride)``."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


@final
class MobileNetV2(Backbone):
    """A stem and seven groups of inverted residuals; the groups of one size are a stage.

    The stages end without an activation, so there is no ``preact``.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv3x3(3, 16, 2), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.ModuleList()
        in_channels = 16
        for expansion, channels, num_blocks, stride in BLOCKS:
            first = InvertedResidual(in_channels, channels, stride, expansion)
            others = (InvertedResidual(channels, channels, 1, expansion) for _ in range(num_blocks - 1))
            self.blocks.append(nn.Sequential(first, *others))
            in_channels = channels
        self.conv2 = nn.Sequential(conv1x1(in_channels, 1280), nn.BatchNorm2d(1280), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(1280, num_classes))
        initialise_convs(self)
        initialise_small(self.head())

    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Return the maps after groups 1, 2, 4 and 6, and the wider one behind them."""
        x = stem = self.conv1(images)
        stages: list[Tensor] = []
        for number, group in enumerate(self.blocks):
            x = group(x)
            if maps and number in STAGE_ENDS:
                stages.append(x)
        last = self.conv2(x)
        return Features(pooled(last), tuple(stages), None, stem, last)

    def segments(self) -> Segments:
        """Return the network from a stage on."""
        pieces = itertools.pairwise(end + 1 for end in STAGE_ENDS)
        steps = tuple(nn.Sequential(*self.blocks[first:last]) for first, last in pieces)
        return Segments(steps=steps, finish=lambda x: pooled(self.conv2(x)), activated=False)

    def head(self) -> nn.Linear:
        """Return ``classifier.0``."""
        classifier = self.classifier[0]
        assert isinstance(classifier, nn.Linear)
        return classifier


def build(name: str, num_classes: int) -> MobileNetV2:  # noqa: ARG001
    """Build MobileNetV2."""
    return MobileNetV2(num_classes)
