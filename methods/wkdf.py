"""WKD-F: the student's projected last map has the teacher's means and deviations of channels, cell by cell.

It is the squared Wasserstein distance of two Gaussians with diagonal covariances, whose part of means is weighted.
Both networks' maps are divided by a grid; the projector is a convolution, batch norm and ReLU.

``loss = ratio * |mean - mean'|^2 + |std - std'|^2``, summed over channels, mean over images and cells

Legend: ``B`` images; maps ``(B, C, H, W)``, a grid of ``G`` x ``G`` cells.
"""

import itertools
import math

import torch
from torch import Tensor, nn

from kdbench.functional import at_least_float32
from kdbench.method import (
    Batch,
    Outputs,
    Paper,
    Reads,
    Setup,
    Shape,
    among,
    choice,
    count,
    fraction,
    log,
    positive,
    weight,
)

from ._connectors import SizingConnector, images_for_norm
from ._task import TaskMethod

PAPER = Paper(
    "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation",
    "Lv, Yang, Li", "NeurIPS", 2024, "2412.08139",
)  # fmt: skip
EPS = 1e-5
"""Added to variances."""


def bounds(length: int, grid: int) -> list[tuple[int, int]]:
    """First and last but one row of each of ``grid`` cells, those of adaptive pooling; they may overlap."""
    return [(cell * length // grid, -(-(cell + 1) * length // grid)) for cell in range(grid)]


def cell_moments(maps: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Means and deviations of each channel in each cell, ``(B, C, G * G)``; the variance is that of a sample."""
    height, width = maps.shape[2:]
    cells = itertools.product(bounds(height, grid), bounds(width, grid))
    moments = [
        torch.var_mean(at_least_float32(maps[:, :, top:bottom, left:right]), dim=(2, 3))
        for (top, bottom), (left, right) in cells
    ]
    variance, mean = (torch.stack(each, dim=2) for each in zip(*moments, strict=True))
    return mean, (variance + EPS).sqrt()


def moment_errors(student: Tensor, teacher: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Squared errors of means and of deviations, summed over channels, mean over images and cells: two scalars."""
    moments = zip(cell_moments(student, grid), cell_moments(teacher, grid), strict=True)
    mean, deviation = ((ours - theirs).square().sum(dim=1).mean() for ours, theirs in moments)
    return mean, deviation


def decay_factor(progress: float, start: float) -> float:
    """Return 1 up to a part of training, and from there half a cosine wave down to 0 at its end."""
    return 1.0 if progress <= start else (1 + math.cos(math.pi * (progress - start) / (1 - start))) / 2


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 with nothing between them, and batch norm."""

    def __init__(self, student: Shape, teacher: Shape) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(student[0], teacher[0], 1)
        self.conv2 = nn.Conv2d(teacher[0], teacher[0], 3, padding=1)
        self.conv3 = nn.Conv2d(teacher[0], teacher[0], 1)
        self.bn = nn.BatchNorm2d(teacher[0])
        self.min_images = images_for_norm(student)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the map at the teacher's channels, in the student's size."""
        return self.bn(self.conv3(self.conv2(self.conv1(maps))))  # type: ignore[no-any-return]


def projector(student: Shape, teacher: Shape, grid: int, *, bottleneck: bool) -> Bottleneck | SizingConnector:
    """Return what takes the student's last map to the teacher's channels.

    Raises
    ------
    ValueError
        A cell of the grid has one position, which has no deviation.
    """
    connector = Bottleneck(student, teacher) if bottleneck else SizingConnector(student, teacher)
    with torch.no_grad():
        projected = connector.eval()(torch.zeros(1, *student)).shape[2:]
    connector.train()
    for sides in (projected, teacher[1:]):
        rows, columns = (min(end - begin for begin, end in bounds(side, grid)) for side in sides)
        if rows * columns < 2:
            raise ValueError(
                f"grid = {grid} leaves cells of one position in maps of {sides[0]} x {sides[1]}, which have no "
                "deviation: choose a smaller grid, or other networks"
            )
    return connector


class WKDF(TaskMethod):
    """Squared errors of the moments of channels in the cells of the last stage."""

    FAMILY = "features"
    PAPER = PAPER
    MIN_STAGES = 1
    READS = Reads(student={"stages"}, teacher={"stages"})
    DEVIATIONS = (
        "the decay from epoch 150 of 240 is a fraction of training here, so it scales with the number of epochs",
        "the projected map ends in a ReLU; a wide residual teacher's map is read before its last batch norm, as in the "
        "authors' code, and has negative entries",
        "the authors train in half precision; a protocol here says which precision counts",
    )
    OURS = dict.fromkeys(
        ("feature_weight", "mean_ratio", "grid"),
        "the authors state it for resnet32x4>resnet8x4, whose setting is the default, and wrn_40_2>ShuffleNetV1 alone",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: the authors' for resnet32x4>resnet8x4."""

        feature_weight: float = weight(0.08, search=log(0.005, 1.0))
        """Weight of the errors of means and deviations."""
        mean_ratio: float = positive(4.0, search=log(1.0, 10.0))
        """Weight of the error of means over that of deviations."""
        grid: int = count(1, search=among(1, 2, 4))
        """Rows and columns of cells."""
        bottleneck: bool = choice(False)
        """Project by three convolutions, as on ImageNet, instead of one that meets the teacher's size."""
        decay_start: float = fraction(150 / 240)
        """Fraction of training after which the weight falls to 0 along a cosine; 1 switches the decay off."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        shapes = setup.student.shapes[-1], setup.teacher.shapes[-1]
        self.connector = projector(*shapes, self.config.grid, bottleneck=self.config.bottleneck)
        self.min_images = self.connector.min_images

    def projected(self, maps: Tensor) -> Tensor:
        """Return the student's map at the teacher's channels."""
        return torch.relu(self.connector(maps))

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        mean, deviation = moment_errors(self.projected(student.stages[-1]), teacher.stages[-1], config.grid)
        factor = config.feature_weight * decay_factor(batch.progress, config.decay_start)
        return {"mean": factor * config.mean_ratio * mean, "deviation": factor * deviation}
