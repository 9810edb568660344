"""VGG networks with batch norm for small images: vgg8, vgg11, vgg13, vgg16, vgg19.

Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, arXiv 1409.1556, with
one linear layer behind a global pooling. State-dict names are those of RepDistiller and mdistiller.
"""

from __future__ import annotations

from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from kdbench.models.layers import initialise_convs, initialise_small, pooled
from kdbench.net import Backbone, Features, Segments

WIDTHS = (64, 128, 256, 512, 512)
NUM_CONVS = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


@final
class VGG(Backbone):
    """Five blocks of 3 x 3 convolutions with max pooling between them; the first block is the stem.

    The last pooling is left out for images of fewer than 64 rows (in the reference: of other than 64), so the last
    two stages share a size there. A map of one row or column is not pooled any more.

    Parameters
    ----------
    num_convs
        Number of convolutions in each block.
    num_classes
        Number of classes.
    """

    def __init__(self, num_convs: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.block0 = _block(3, WIDTHS[0], num_convs[0])
        self.block1 = _block(WIDTHS[0], WIDTHS[1], num_convs[1])
        self.block2 = _block(WIDTHS[1], WIDTHS[2], num_convs[2])
        self.block3 = _block(WIDTHS[2], WIDTHS[3], num_convs[3])
        self.block4 = _block(WIDTHS[3], WIDTHS[4], num_convs[4])
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        initialise_convs(self)
        initialise_small(self.classifier)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Return the maps of the last four blocks, before pooling."""
        num_poolings = 4 if images.shape[2] >= 64 else 3
        stages: list[Tensor] = []
        preacts: list[Tensor] = []
        x = stem = torch.relu(self.block0(images))
        for number, block in enumerate((self.block1, self.block2, self.block3, self.block4), start=1):
            if number <= num_poolings and min(x.shape[2:]) > 1:
                x = nn.functional.max_pool2d(x, 2)
            preact = block(x)
            x = torch.relu(preact)
            if maps:
                stages.append(x)
                preacts.append(preact)
        return Features(pooled(x), tuple(stages), tuple(preacts), stem, x)

    def segments(self) -> Segments:
        """Return the network from a stage on; the last pooling is there where a map of 64 rows has become one of 8."""

        def step(block: nn.Module, smallest: int, x: Tensor) -> Tensor:
            pools = x.shape[2] >= smallest and min(x.shape[2:]) > 1
            return torch.relu(block(nn.functional.max_pool2d(x, 2) if pools else x))

        blocks = ((self.block2, 2), (self.block3, 2), (self.block4, 8))
        return Segments(steps=tuple(partial(step, *each) for each in blocks), finish=pooled)

    def head(self) -> nn.Linear:
        """Return ``classifier``."""
        return self.classifier

    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Return the last batch norm of each block after the stem."""
        last = (self.block1[-1], self.block2[-1], self.block3[-1], self.block4[-1])
        return tuple(norm for norm in last if isinstance(norm, nn.BatchNorm2d))


def _block(in_channels: int, channels: int, num_convs: int) -> nn.Sequential:
    """Convolutions, each with batch norm, and with a ReLU between two of them."""
    layers: list[nn.Module] = []
    for number in range(num_convs):
        layers += [nn.ReLU()] if number else []
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels)]
        in_channels = channels
    return nn.Sequential(*layers)


def build(name: str, num_classes: int) -> VGG:
    """Build one of the networks of ``NUM_CONVS``."""
    return VGG(NUM_CONVS[name], num_classes)
