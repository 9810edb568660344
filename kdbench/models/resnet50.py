"""ResNet50 for small images: the ImageNet network with a 3 x 3 stem of stride 1 and no pooling after it.

He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385. State-dict names are those of
RepDistiller and mdistiller.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from kdbench.models.layers import conv1x1, conv3x3, initialise_convs, pooled, run_stages, segments_of
from kdbench.net import Backbone, Features, Segments

EXPANSION = 4


@final
class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolution and a shortcut; returns their sum before the ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * channels
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, H, W)`` to ``(B, 4 C, H / stride, W / stride)``."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out)) + self.shortcut(x)  # type: ignore[no-any-return]


@final
class ResNet50(Backbone):
    """A stem and four stages of 3, 4, 6 and 3 bottleneck blocks."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 3, 1)
        self.layer2 = _stage(256, 128, 4, 2)
        self.layer3 = _stage(512, 256, 6, 2)
        self.layer4 = _stage(1024, 512, 3, 2)
        self.linear = nn.Linear(2048, num_classes)
        initialise_convs(self)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Return the maps of the four stages."""
        stem = torch.relu(self.bn1(self.conv1(images)))
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        x, stages, preact = run_stages(stem, layers, maps=maps)
        return Features(pooled(x), stages, preact, stem, x)

    def segments(self) -> Segments:
        """Return the network from a stage on."""
        return segments_of((self.layer2, self.layer3, self.layer4))

    def head(self) -> nn.Linear:
        """Return ``linear``."""
        return self.linear

    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Return ``bn3`` of each stage's last block."""
        last = (self.layer1[-1], self.layer2[-1], self.layer3[-1], self.layer4[-1])
        return tuple(block.bn3 for block in last if isinstance(block, Bottleneck))


def _stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * channels, channels, 1) for _ in range(num_blocks - 1)))


def build(name: str, num_classes: int) -> ResNet50:  # noqa: ARG001
    """Build ResNet50."""
    return ResNet50(num_classes)
