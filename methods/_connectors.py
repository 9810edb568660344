"""Features of the student at the teacher's width, and at its size where asked: a convolution and batch norm."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from kdbench.net import Shape


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


def sizing_conv(student: Shape, teacher: Shape) -> nn.Module:
    """Convolution from a student's map to the teacher's channels and, where it can, size.

    A student of twice the size is halved and one of half the size doubled; one that is larger otherwise meets a
    kernel that leaves the teacher's size. One that is smaller otherwise keeps its size.
    """
    (channels, height, width), (out_channels, rows, columns) = student, teacher
    if (height, width) == (2 * rows, 2 * columns):
        return nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)
    if (2 * height, 2 * width) == (rows, columns):
        return nn.ConvTranspose2d(channels, out_channels, 4, stride=2, padding=1)
    if height >= rows and width >= columns:
        return nn.Conv2d(channels, out_channels, (1 + height - rows, 1 + width - columns))
    return nn.Conv2d(channels, out_channels, 3, padding=1)


@final
class SizingConnector(nn.Module):
    """Convolution to the teacher's shape and batch norm, for a method of this name."""

    def __init__(self, student: Shape, teacher: Shape, method: str) -> None:
        super().__init__()
        self.method = method
        self.conv = sizing_conv(student, teacher)
        self.bn = nn.BatchNorm2d(teacher[0])

    def forward(self, maps: Tensor) -> Tensor:
        """Return the teacher-like map."""
        maps = self.conv(maps)
        check_norm_input(maps, self.method, training=self.training)
        return self.bn(maps)  # type: ignore[no-any-return]
