"""Wide residual networks: wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2 (depth, widening factor).

Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016, arXiv 1605.07146, without dropout. State-dict names are
those of RepDistiller and mdistiller.

``stages`` are the groups' outputs as they are added up, which no ReLU follows; ``preact`` is what the next batch
norm makes of them. It is computed once, as in RepDistiller; mdistiller computes it a second time, so that its
running statistics of three batch norms move twice per training step.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from kdbench.models.layers import conv1x1, conv3x3, initialise_convs, pooled
from kdbench.net import Backbone, Features, Segments


@final
class WideBlock(nn.Module):
    """Batch norm and ReLU before each of two 3 x 3 convolutions, and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.convShortcut = None if in_channels == channels else conv1x1(in_channels, channels, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output, and its normalised input before the ReLU."""
        normalised = self.bn1(x)
        out = torch.relu(normalised)
        shortcut = x if self.convShortcut is None else self.convShortcut(out)
        return shortcut + self.conv2(torch.relu(self.bn2(self.conv1(out)))), normalised


@final
class Group(nn.Module):
    """Blocks of one width."""

    def __init__(self, in_channels: int, channels: int, num_blocks: int, stride: int) -> None:
        super().__init__()
        first = WideBlock(in_channels, channels, stride)
        self.layer = nn.Sequential(first, *(WideBlock(channels, channels, 1) for _ in range(num_blocks - 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the group's output, and its normalised input before the first ReLU."""
        first, *others = self.layer
        x, normalised = first(x)
        for block in others:
            x, _ = block(x)
        return x, normalised


@final
class WideResNet(Backbone):
    """A stem and three groups, 6n + 4 layers deep.

    Parameters
    ----------
    depth
        Number of layers, 6n + 4.
    widen
        Factor on the groups' 16, 32 and 64 channels.
    num_classes
        Number of classes.
    """

    def __init__(self, depth: int, widen: int, num_classes: int) -> None:
        super().__init__()
        assert depth % 6 == 4
        num_blocks = (depth - 4) // 6
        self.conv1 = conv3x3(3, 16)
        self.block1 = Group(16, 16 * widen, num_blocks, 1)
        self.block2 = Group(16 * widen, 32 * widen, num_blocks, 2)
        self.block3 = Group(32 * widen, 64 * widen, num_blocks, 2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, num_classes)
        initialise_convs(self)
        nn.init.zeros_(self.fc.bias)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Return the maps of the three groups."""
        stem = self.conv1(images)
        first, _ = self.block1(stem)
        second, first_preact = self.block2(first)
        third, second_preact = self.block3(second)
        third_preact = self.bn1(third)
        last = torch.relu(third_preact)
        if not maps:
            return Features(pooled(last), (), (), stem, last)
        return Features(pooled(last), (first, second, third), (first_preact, second_preact, third_preact), stem, last)

    def segments(self) -> Segments:
        """Return the network from a stage on."""
        steps = (lambda x: self.block2(x)[0], lambda x: self.bn1(self.block3(x)[0]))
        return Segments(steps=steps, finish=lambda x: pooled(torch.relu(x)), close=self.bn1, activated=False)

    def head(self) -> nn.Linear:
        """Return ``fc``."""
        return self.fc

    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Return the batch norms that follow the groups."""
        following = (self.block2.layer[0], self.block3.layer[0])
        return *(block.bn1 for block in following if isinstance(block, WideBlock)), self.bn1


def build(name: str, num_classes: int) -> WideResNet:
    """Build wrn_DEPTH_WIDEN."""
    _, depth, widen = name.split("_")
    return WideResNet(int(depth), int(widen), num_classes)
