"""Features of the student at the teacher's width: a pointwise convolution and batch norm."""

from __future__ import annotations

from torch import Tensor, nn


def conv_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    """Pointwise convolution without bias, and batch norm."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


def check_norm_input(maps: Tensor, method: str, *, training: bool) -> None:
    """Raise ValueError for maps ``(B, C, H, W)`` that leave a batch norm one value a channel, without a variance."""
    if training and maps.shape[0] * maps.shape[2] * maps.shape[3] < 2:
        raise ValueError(
            f"{method} cannot train on a batch of one image, because its batch norm sees one value a channel: choose a "
            "batch size that does not leave one image over at the end of the epoch"
        )
