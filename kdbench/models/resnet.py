"""Residual networks for small images: resnet8 ... resnet110, and the wider resnet8x4, resnet32x4.

He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385, section 4.2; with projection shortcuts.
State-dict names are those of RepDistiller and mdistiller.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from kdbench.models.layers import conv1x1, conv3x3, initialise_convs, pooled, run_stages, segments_of
from kdbench.net import Backbone, Features, Segments


@final
class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; returns their sum before the ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = (
            nn.Identity()
            if stride == 1 and in_channels == channels
            else nn.Sequential(conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, H, W)`` to ``(B, C, H / stride, W / stride)``."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return out + self.downsample(x)  # type: ignore[no-any-return]


@final
class ResNet(Backbone):
    """A stem and three stages of basic blocks, 6n + 2 layers deep.

    Parameters
    ----------
    depth
        Number of layers, 6n + 2.
    widths
        Channels of the stem and the three stages.
    num_classes
        Number of classes.
    """

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        assert depth % 6 == 2
        num_blocks = (depth - 2) // 6
        self.conv1 = conv3x3(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[1], num_blocks, 1)
        self.layer2 = _stage(widths[1], widths[2], num_blocks, 2)
        self.layer3 = _stage(widths[2], widths[3], num_blocks, 2)
        self.fc = nn.Linear(widths[3], num_classes)
        initialise_convs(self)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Return the maps of the three stages."""
        stem = torch.relu(self.bn1(self.conv1(images)))
        x, stages, preact = run_stages(stem, (self.layer1, self.layer2, self.layer3), maps=maps)
        return Features(pooled(x), stages, preact, stem, x)

    def segments(self) -> Segments:
        """Return the network from a stage on."""
        return segments_of((self.layer2, self.layer3))

    def head(self) -> nn.Linear:
        """Return ``fc``."""
        return self.fc

    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Return ``bn2`` of each stage's last block."""
        last = (self.layer1[-1], self.layer2[-1], self.layer3[-1])
        return tuple(block.bn2 for block in last if isinstance(block, BasicBlock))


def _stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(num_blocks - 1)))


def build(name: str, num_classes: int) -> ResNet:
    """Build resnetDEPTH or resnetDEPTHx4."""
    depth, wide, _ = name.removeprefix("resnet").partition("x4")
    return ResNet(int(depth), (32, 64, 128, 256) if wide else (16, 16, 32, 64), num_classes)
