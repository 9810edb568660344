"""ShuffleNetV1 for small images: 3 groups, width 1, a pointwise stem of stride 1.

Zhang et al., ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices, CVPR 2018, arXiv
1707.01083. State-dict names are those of RepDistiller and mdistiller.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from kdbench.models.layers import conv1x1, conv3x3, pooled, run_stages, segments_of, shuffle_channels
from kdbench.net import Backbone, Features, Segments

STEM = 24
GROUPS = 3


@final
class ShuffleBlock(nn.Module):
    """Grouped 1 x 1, shuffle, 3 x 3 by channel, grouped 1 x 1; returns its value before the ReLU.

    A block of stride 2 sets its pooled input beside its result, so ``channels`` is the width of both together.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        new_channels = channels - in_channels if stride == 2 else channels
        middle = new_channels // 4
        self.groups = 1 if in_channels == STEM else GROUPS
        self.stride = stride
        self.conv1 = conv1x1(in_channels, middle, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = conv3x3(middle, middle, stride, groups=middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = conv1x1(middle, new_channels, groups=GROUPS)
        self.bn3 = nn.BatchNorm2d(new_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, H, W)`` to ``(B, C, H / stride, W / stride)``."""
        out = shuffle_channels(torch.relu(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(out)))))
        if self.stride == 2:
            return torch.cat((out, nn.functional.avg_pool2d(x, 3, stride=2, padding=1)), dim=1)
        return out + x  # type: ignore[no-any-return]


@final
class ShuffleNetV1(Backbone):
    """A stem and three stages of 4, 8 and 4 blocks."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(3, STEM)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = _stage(STEM, 240, 4)
        self.layer2 = _stage(240, 480, 8)
        self.layer3 = _stage(480, 960, 4)
        self.linear = nn.Linear(960, num_classes)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Return the maps of the three stages."""
        stem = torch.relu(self.bn1(self.conv1(images)))
        x, stages, preact = run_stages(stem, (self.layer1, self.layer2, self.layer3), maps=maps)
        return Features(pooled(x), stages, preact, stem, x)

    def segments(self) -> Segments:
        """Return the network from a stage on."""
        return segments_of((self.layer2, self.layer3))

    def head(self) -> nn.Linear:
        """Return ``linear``."""
        return self.linear


def _stage(in_channels: int, channels: int, num_blocks: int) -> nn.Sequential:
    first = ShuffleBlock(in_channels, channels, 2)
    return nn.Sequential(first, *(ShuffleBlock(channels, channels, 1) for _ in range(num_blocks - 1)))


def build(name: str, num_classes: int) -> ShuffleNetV1:  # noqa: ARG001
    """Build ShuffleNetV1."""
    return ShuffleNetV1(num_classes)
