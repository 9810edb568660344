"""Features of the student at the teacher's width, and at its size where it can be: a convolution and batch norm."""

from typing import final

import torch
from torch import Tensor, nn

from kdbench.net import Shape


def conv_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    """Pointwise convolution without bias, and batch norm."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


def images_for_norm(shape: Shape) -> int:
    """Images that a batch norm over maps of this shape needs in training: one image of one pixel has no variance."""
    return 2 if shape[1] * shape[2] == 1 else 1


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
    """Convolution to the teacher's shape and batch norm."""

    def __init__(self, student: Shape, teacher: Shape) -> None:
        super().__init__()
        self.conv = sizing_conv(student, teacher)
        self.bn = nn.BatchNorm2d(teacher[0])
        with torch.no_grad():
            _, channels, rows, columns = self.conv(torch.zeros(1, *student)).shape
        self.min_images = images_for_norm((channels, rows, columns))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the teacher-like map."""
        return self.bn(self.conv(maps))  # type: ignore[no-any-return]
