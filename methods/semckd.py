"""SemCKD: each stage of the student learns from all of the teacher's, by weights that an attention gives each image.

A stage's inner products between the images of a batch go through a small network, whose output for an image is the
query of a student's stage or the key of a teacher's. The weights are a softmax of their products over the teacher's
stages:

``loss = sum over pairs of stages of weight * (regressed student map - teacher map)^2``, mean over images and over the
student's stages

Follows the authors' code: the inner products are neither scaled nor detached, so features are trained through the
attention too, and its first layer is as wide as a batch.

Legend: ``B`` images, ``N`` images of a full batch (or group), ``S`` and ``T`` stages; maps ``(B, C, H, W)``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32, inner_products, to_smaller_size
from kdbench.method import Batch, Outputs, Paper, Reads, Setup, log, weight
from kdbench.models.layers import conv1x1, conv3x3

from ._connectors import images_for_norm
from ._task import TaskMethod


def similarities(maps: Tensor, width: int) -> Tensor:
    """Inner products between images ``(B, width)`` of maps ``(B, C, H, W)``; 0 with the images that a batch lacks."""
    rows = maps.flatten(1)
    return functional.pad(inner_products(rows, rows), (0, width - len(rows)))


def stage_weights(queries: list[Tensor], keys: list[Tensor]) -> Tensor:
    """Weights ``(B, S, T)`` that add up to 1 over the teacher's stages; queries and keys are ``(B, D)`` a stage."""
    ours, theirs = (
        functional.normalize(at_least_float32(torch.stack(stages, dim=1)), dim=2) for stages in (queries, keys)
    )
    return inner_products(ours, theirs).softmax(dim=2)


def error_per_image(regressed: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error ``(B,)`` of maps ``(B, C, H, W)``."""
    return (at_least_float32(regressed) - at_least_float32(teacher)).square().mean(dim=(1, 2, 3))


def semckd_loss(weights: Tensor, errors: Tensor) -> Tensor:
    """Weighted errors ``(B, S, T)``, summed over the teacher's stages, mean over images and the student's stages."""
    return (weights * errors).sum(dim=2).mean()


def perceptron(width: int) -> nn.Sequential:
    """Two layers on the inner products of an image with ``width`` images; a quarter of them is the output's width."""
    return nn.Sequential(nn.Linear(width, 2 * (width // 4)), nn.ReLU(), nn.Linear(2 * (width // 4), width // 4))


def regressor(in_channels: int, out_channels: int) -> nn.Sequential:
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1, with batch norm and ReLU between them; the middle is twice as wide."""
    width = 2 * out_channels
    return nn.Sequential(
        *(conv1x1(in_channels, width), nn.BatchNorm2d(width), nn.ReLU()),
        *(conv3x3(width, width), nn.BatchNorm2d(width), nn.ReLU()),
        conv1x1(width, out_channels),
    )


class SemCKD(TaskMethod):
    """Squared errors of all pairs of stages, weighted by an attention over a batch's inner products."""

    FAMILY = "features"
    PAPER = Paper(
        "Cross-Layer Distillation with Semantic Calibration",
        "Chen, Mei, Zhang, Wang, Wang, Feng, Chen", "AAAI", 2021, "2012.03236",
    )  # fmt: skip
    MIN_STAGES = 1
    READS = Reads(student={"stages"}, teacher={"stages"})
    DEVIATIONS = (
        "KD's divergence stands beside it, as in the authors' commands (-a 1): kd_weight = 0 leaves it out",
        "the last, smaller batch of an epoch counts, with inner products of 0 for the images that it lacks; the "
        "authors' loop skips it altogether",
        "the attention's width is that of a batch, or of a group: published numbers have 64, and 32 on ImageNet",
        "an output of the attention's networks that is 0 has weights that are equal; it makes the authors' loss NaN",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: the authors' command for CIFAR-100."""

        kd_weight: float = weight(1.0)
        """Weight of KD's KL divergence."""
        semckd_weight: float = weight(400.0, search=log(10.0, 1000.0))
        """Weight of the weighted squared errors; too large for some pairs, whose training diverges.

        On the embedded digits, resnet20>resnet8 diverges at 400 with one teacher and not with another: the curvature
        that the regressors' last convolutions see was up to 93 there, and SGD with a momentum of 0.9 follows up to 76
        at a learning rate of 0.05. A quarter of that rate trains smoothly.
        """

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        ours, theirs, self.batch_width = setup.student.shapes, setup.teacher.shapes, setup.group_size
        if self.batch_width < 4:
            images = "one image" if self.batch_width == 1 else f"{self.batch_width} images"
            raise ValueError(f"SemCKD cannot train on a batch of {images}: choose a batch size of at least 4")
        self.queries = nn.ModuleList(perceptron(self.batch_width) for _ in ours)
        self.keys = nn.ModuleList(perceptron(self.batch_width) for _ in theirs)
        self.regressors = nn.ModuleList(regressor(mine[0], goal[0]) for mine in ours for goal in theirs)
        self.min_images = max(images_for_norm(shape) for shape in (*ours, *theirs))

    def attention(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Return the weights ``(B, S, T)``."""
        queries, keys = (
            [network(similarities(maps, self.batch_width)) for network, maps in zip(networks, stages, strict=True)]
            for networks, stages in ((self.queries, student.stages), (self.keys, teacher.stages))
        )
        return stage_weights(queries, keys)

    def errors(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Return the squared error of each pair of stages, ``(B, S, T)``."""
        pairs = [to_smaller_size(ours, theirs) for ours in student.stages for theirs in teacher.stages]
        errors = [error_per_image(to(ours), theirs) for to, (ours, theirs) in zip(self.regressors, pairs, strict=True)]
        return torch.stack(errors, dim=1).view(-1, len(student.stages), len(teacher.stages))

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = semckd_loss(self.attention(student, teacher), self.errors(student, teacher))
        return {"semckd": self.config.semckd_weight * loss}
