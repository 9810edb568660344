"""MobileNetV1 for large images: depthwise and pointwise convolutions in turn, full width, a stem of stride 2.

Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, arXiv 1704.04861.
State-dict names and initial weights (torch's own) are those of mdistiller. It is the student of the second ImageNet
pair of most papers; the code of LSKD, MLLD, CAT-KD, SDD, SLD, EKD and DeepKD calls it MobileNetV2.
"""

from __future__ import annotations

import itertools
from typing import final

import torch
from torch import Tensor, nn

from kdbench.models.layers import conv1x1, conv3x3, pooled
from kdbench.net import Backbone, Features, Segments

BLOCKS = (
    # channels, stride
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1) for _ in range(5)),
    (1024, 2),
    (1024, 1),
)
STAGE_ENDS = (3, 5, 11, 13)
"""Entries of ``model`` that are the last at their size."""


@final
class MobileNetV1(Backbone):
    """A stem and thirteen blocks of a depthwise and a pointwise convolution; the blocks of one size are a stage."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Sequential(conv3x3(3, 32, 2), nn.BatchNorm2d(32), nn.ReLU()))
        in_channels = 32
        for channels, stride in BLOCKS:
            self.model.append(
                nn.Sequential(
                    *(conv3x3(in_channels, in_channels, stride, groups=in_channels), nn.BatchNorm2d(in_channels)),
                    *(nn.ReLU(), conv1x1(in_channels, channels), nn.BatchNorm2d(channels), nn.ReLU()),
                )
            )
            in_channels = channels
        self.fc = nn.Linear(in_channels, num_classes)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Return the maps of the last blocks of 128, 256, 512 and 1024 channels."""
        stem, *blocks = self.model
        x = first = stem(images)
        stages: list[Tensor] = []
        preacts: list[Tensor] = []
        for number, block in enumerate(blocks, start=1):
            preact = x
            for module in list(block.children())[:-1]:
                preact = module(preact)
            x = torch.relu(preact)
            if maps and number in STAGE_ENDS:
                stages.append(x)
                preacts.append(preact)
        return Features(pooled(x), tuple(stages), tuple(preacts), first, x)

    def segments(self) -> Segments:
        """Return the network from a stage on."""
        steps = tuple(self.model[first + 1 : last + 1] for first, last in itertools.pairwise(STAGE_ENDS))
        return Segments(steps=steps, finish=pooled)

    def head(self) -> nn.Linear:
        """Return ``fc``."""
        return self.fc

    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Return the batch norm after the pointwise convolution of each stage's last block."""
        norms = (list(self.model[end].children())[-2] for end in STAGE_ENDS)
        return tuple(norm for norm in norms if isinstance(norm, nn.BatchNorm2d))


def build(name: str, num_classes: int) -> MobileNetV1:  # noqa: ARG001
    """Build MobileNetV1."""
    return MobileNetV1(num_classes)
