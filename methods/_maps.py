"""What methods that compare feature maps share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from kdbench.method import Setup


def pooled_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``(B, C, H, W)`` average-pooled to a size; as they are where they have it."""
    return maps if maps.shape[2:] == size else functional.adaptive_avg_pool2d(maps, size)


def at_one_size(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps ``(B, C, H, W)``, each average-pooled to the smaller of both heights and widths."""
    size = min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3])
    return pooled_to(ours, size), pooled_to(theirs, size)


def shared_stages(setup: Setup, name: str) -> int:
    """Return how many stages both networks have; ValueError where one has none. The deepest ones are matched."""
    for net in (setup.student, setup.teacher):
        if not net.shapes:
            raise ValueError(f"{name} compares feature maps, but {net.name} shows none: choose another network")
    return min(len(setup.student.shapes), len(setup.teacher.shapes))


def conv_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    """Pointwise convolution without bias, and batch norm."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


def check_norm_input(maps: Tensor, name: str, *, training: bool) -> None:
    """Raise ValueError for maps that leave a batch norm one value a channel, whose variance is not defined."""
    if training and maps.shape[0] * maps[0, 0].numel() < 2:
        raise ValueError(
            f"{name} cannot train on a batch of one image, because its batch norm sees one value a channel: choose a "
            "batch size that does not leave one image over at the end of the epoch"
        )
