"""Residual networks for large images: torchvision's resnet18, resnet34 and resnet50.

He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385, with a stem of stride 4. Modules, state-dict
names and initial weights are torchvision's; unlike timm, it does not set the last batch norm of each block to zero.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import final

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from kdbench.models.layers import pooled
from kdbench.net import Backbone, Features, Segments


@final
class TorchvisionResNet(Backbone):
    """A network of torchvision's, run block by block, so that the maps before the last ReLU of a stage can be seen.

    Parameters
    ----------
    name
        torchvision's name, e.g. ``resnet18``.
    num_classes
        Number of classes.
    """

    PREFIX = "model."

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        self.model = torchvision.models.get_model(name, weights=None, num_classes=num_classes)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Return the maps of the four stages, and that of the stem before its pooling."""
        stem = torch.relu(self.model.bn1(self.model.conv1(images)))
        x = self.model.maxpool(stem)
        stages: list[Tensor] = []
        preacts: list[Tensor] = []
        for layer in self._layers():
            for block in layer:
                preact = _block(block, x)
                x = torch.relu(preact)
            if maps:
                stages.append(x)
                preacts.append(preact)
        return Features(pooled(x), tuple(stages), tuple(preacts), stem, x)

    def segments(self) -> Segments:
        """Return the network from a stage on."""

        def step(layer: nn.Sequential) -> Callable[[Tensor], Tensor]:
            return lambda x: reduce(lambda maps, block: torch.relu(_block(block, maps)), layer, x)

        return Segments(steps=tuple(map(step, self._layers()[1:])), finish=pooled)

    def head(self) -> nn.Linear:
        """Return ``fc``."""
        classifier: nn.Linear = self.model.fc
        return classifier

    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Return the last batch norm of each stage's last block."""
        last = [layer[-1] for layer in self._layers()]
        norms = [block.bn3 if isinstance(block, Bottleneck) else block.bn2 for block in last]
        return tuple(norm for norm in norms if isinstance(norm, nn.BatchNorm2d))

    def _layers(self) -> tuple[nn.Sequential, ...]:
        return self.model.layer1, self.model.layer2, self.model.layer3, self.model.layer4


def _block(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    """Return a block's sum before its ReLU; the blocks' own forward passes overwrite it."""
    out = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    if isinstance(block, Bottleneck):
        out = block.bn3(block.conv3(torch.relu(out)))
    shortcut: Tensor = x if block.downsample is None else block.downsample(x)
    total: Tensor = shortcut + out
    return total


def build(name: str, num_classes: int) -> TorchvisionResNet:
    """Build torchvision:resnetDEPTH."""
    return TorchvisionResNet(name.partition(":")[2], num_classes)
