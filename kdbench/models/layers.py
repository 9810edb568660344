"""Pieces that the networks for small images share.

Nothing works in place: any map may be handed to a method.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench.net import Segments


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Pointwise convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, groups=groups, bias=False)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """3 x 3 convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False)


def pooled(maps: Tensor) -> Tensor:
    """Mean over the positions: ``(B, C, H, W)`` to ``(B, C)``."""
    return nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1)


def shuffle_channels(maps: Tensor, groups: int) -> Tensor:
    """Interleave the channels of ``groups`` groups."""
    num_images, channels, height, width = maps.shape
    grouped = maps.reshape(num_images, groups, channels // groups, height, width)
    return grouped.transpose(1, 2).reshape(maps.shape)


def run_stages(
    x: Tensor, stages: Iterable[nn.Module], *, activate: Callable[[Tensor], Tensor] = torch.relu, maps: bool
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run stages of blocks, where a block returns its value before the last activation.

    Returns the last output and, if ``maps``, each stage's output after and before its last activation.
    """
    outputs: list[Tensor] = []
    preacts: list[Tensor] = []
    for stage in stages:
        for block in stage.children():
            preact = block(x)
            x = activate(preact)
        if maps:
            outputs.append(x)
            preacts.append(preact)
    return x, tuple(outputs), tuple(preacts)


def segments_of(
    stages: Iterable[nn.Module],
    *,
    activate: Callable[[Tensor], Tensor] = torch.relu,
    finish: Callable[[Tensor], Tensor] = pooled,
) -> Segments:
    """Return a network from its first stage on: its other stages, as `run_stages` takes them, and what follows."""

    def step(stage: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: run_stages(x, (stage,), activate=activate, maps=False)[0]

    return Segments(steps=tuple(map(step, stages)), finish=finish)


@contextlib.contextmanager
def running_statistics_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let those of the modules that are batch norms normalise by what they see, and remember nothing of it."""
    tracking = [each for each in modules if isinstance(each, _BatchNorm) and each.track_running_stats]
    for each in tracking:
        each.track_running_stats = False
    try:
        yield
    finally:
        for each in tracking:
            each.track_running_stats = True


def initialise_convs(network: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / fan_out), fan_out = kernel area x output channels; biases are 0.

    He et al., Delving Deep into Rectifiers, arXiv 1502.01852. Batch norms keep torch's 1 and 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initialise_small(classifier: nn.Linear) -> None:
    """Draw a classifier from N(0, 0.01^2), with a bias of 0."""
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
