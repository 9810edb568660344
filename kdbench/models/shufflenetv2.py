"""ShuffleNetV2 for small images: width 1, a pointwise stem of stride 1.

Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018, arXiv 1807.11164.
State-dict names are those of RepDistiller and mdistiller.

A block returns its two halves side by side before the last ReLU; ReLU and shuffle follow. The half that a plain
block passes on is not negative already, so the ReLU changes nothing there.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from kdbench.models.layers import conv1x1, conv3x3, pooled, run_stages, segments_of, shuffle_channels
from kdbench.net import Backbone, Features, Segments

STEM = 24


@final
class PlainBlock(nn.Module):
    """Pass on one half of the channels and transforms the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv3x3(half, half, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        passed, out = x.chunk(2, dim=1)
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(out)))))
        return torch.cat((passed, self.bn3(self.conv3(out))), dim=1)


@final
class DownBlock(nn.Module):
    """Halves the size; both halves of its output come from the whole input."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv3x3(in_channels, in_channels, 2, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = conv1x1(in_channels, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(in_channels, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv3x3(half, half, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, H, W)`` to ``(B, C, H / 2, W / 2)``."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(torch.relu(self.bn3(self.conv3(x)))))
        return torch.cat((left, self.bn5(self.conv5(right))), dim=1)


@final
class ShuffleNetV2(Backbone):
    """A stem, three stages of 4, 8 and 4 blocks, and a wider pointwise convolution before the pooling."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(3, STEM)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = _stage(STEM, 116, 4)
        self.layer2 = _stage(116, 232, 8)
        self.layer3 = _stage(232, 464, 4)
        self.conv2 = conv1x1(464, 1024)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Return the maps of the three stages, and the wider one behind them; ``preact`` is not shuffled."""
        stem = torch.relu(self.bn1(self.conv1(images)))
        layers = (self.layer1, self.layer2, self.layer3)
        x, stages, preact = run_stages(stem, layers, activate=_activate, maps=maps)
        last = torch.relu(self.bn2(self.conv2(x)))
        return Features(pooled(last), stages, preact, stem, last)

    def segments(self) -> Segments:
        """Return the network from a stage on."""
        return segments_of((self.layer2, self.layer3), activate=_activate, finish=self._finish)

    def _finish(self, maps: Tensor) -> Tensor:
        return pooled(torch.relu(self.bn2(self.conv2(maps))))

    def head(self) -> nn.Linear:
        """Return ``linear``."""
        return self.linear


def _activate(halves: Tensor) -> Tensor:
    return shuffle_channels(torch.relu(halves), 2)


def _stage(in_channels: int, channels: int, num_blocks: int) -> nn.Sequential:
    return nn.Sequential(DownBlock(in_channels, channels), *(PlainBlock(channels) for _ in range(num_blocks - 1)))


def build(name: str, num_classes: int) -> ShuffleNetV2:  # noqa: ARG001
    """Build ShuffleNetV2."""
    return ShuffleNetV2(num_classes)
