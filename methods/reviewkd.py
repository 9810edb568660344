"""ReviewKD: each teacher stage teaches a fusion of the student's stage with all deeper ones.

Attention-based fusion blocks (ABF) run from the pooled embedding to the shallowest stage, and a hierarchical context
loss (HCL) compares maps at several sizes. Follows mdistiller: teacher in eval mode, epochs counted from 1. The
authors' CIFAR script leaves the teacher in training mode and counts from 0. Shapes are read from the two networks.

Legend: ``B`` images; maps ``(B, C, H, W)``; levels run from shallow to deep, the last one the pooled embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32, deepest_pairs, mean_squared_error, pooled_to, warmup_factor
from kdbench.method import Batch, Method, Outputs, Paper, Reads, Setup, count, fraction, linear, log, weight

POOLED_SIZES = (4, 2, 1)
"""Sizes that HCL pools maps to, besides the whole map."""


def hcl_loss(fused: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss of one level: a weighted mean of squared errors of ``(B, C, H, W)`` maps.

    The whole map weighs 1 and each smaller average-pooled size half of the one before; sizes that are not smaller
    than the map are left out.
    """
    difference = at_least_float32(fused) - at_least_float32(teacher)
    total, weight, weights = mean_squared_error(fused, teacher), 1.0, 1.0
    for size in POOLED_SIZES:
        rows, columns = difference.shape[2:]
        if size >= min(rows, columns):
            continue
        weight /= 2
        pooled = pooled_to(difference, (size, size))
        total = total + weight * pooled.square().mean()
        weights += weight
        if rows % size == columns % size == 0:  # means of equal windows, whose means are those of larger windows
            difference = pooled
    return total / weights


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``(B, C, H, W)`` at a size by their nearest values; as they are if they have it."""
    return maps if maps.shape[2:] == size else functional.interpolate(maps, size, mode="nearest")


class Fusion(nn.Module):
    """ABF: fuses a student map with what the deeper block hands on; the deepest block has nothing to ``fuse``."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, *, fuse: bool) -> None:
        super().__init__()
        into = nn.Conv2d(in_channels, mid_channels, 1, bias=False)
        out = nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False)
        for convolution in (into, out):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.conv1 = nn.Sequential(into, nn.BatchNorm2d(mid_channels))
        self.conv2 = nn.Sequential(out, nn.BatchNorm2d(out_channels))
        self.att_conv = nn.Sequential(nn.Conv2d(2 * mid_channels, 2, 1), nn.Sigmoid()) if fuse else None

    def forward(self, maps: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the teacher-like map at ``size`` and what is handed on to the next shallower block."""
        mixed: Tensor = self.conv1(maps)
        if deeper is not None:
            mixed = self.attend(mixed, deeper)
        mixed = enlarged(mixed, size)
        return self.conv2(mixed), mixed

    def attend(self, mixed: Tensor, deeper: Tensor) -> Tensor:
        """Return the mixture of maps ``(B, C, H, W)`` with deeper ones, by weights at each position.

        A convolution of both, one behind the other, is the sum of one of each: that of the smaller maps is enlarged
        afterwards, and no copy holds both.
        """
        assert self.att_conv is not None
        convolution, size = self.att_conv[0], (mixed.shape[2], mixed.shape[3])
        assert isinstance(convolution, nn.Conv2d)
        own, other = convolution.weight.chunk(2, dim=1)
        scores = functional.conv2d(mixed, own, convolution.bias) + enlarged(functional.conv2d(deeper, other), size)
        attention = scores.sigmoid()
        return mixed * attention[:, :1] + enlarged(deeper, size) * attention[:, 1:]


class ReviewKD(Method):
    """Attention-based fusion of student stages against the teacher's stages before their last ReLU.

    When the networks have different numbers of stages, the deepest ones are matched. A teacher without maps before
    the last ReLU is read after it.
    """

    FAMILY = "features"
    VERSION = 2  # the loss is summed in another order
    min_images = 2  # the pooled embedding goes through batch norm as a map of one pixel
    PAPER = Paper("Distilling Knowledge via Knowledge Review", "Chen, Liu, Zhao, Jia", "CVPR", 2021, "2104.09044")
    MIN_STAGES = 1
    READS = Reads(student={"logits", "penultimate", "stages", "preact"}, teacher={"penultimate", "stages", "preact"})
    DEVIATIONS = (
        "teacher in eval mode, as in mdistiller; the authors' CIFAR script leaves it in training mode",
        "the warm-up counts epochs from 1, as mdistiller; the authors' first epoch has weight 0",
        "the warm-up of 20 of 240 epochs is a fraction of training here, so it scales with the number of epochs",
        "the recipes' weights for CIFAR-100 were tuned at batch 128 and learning rate 0.1 with Nesterov momentum",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: mdistiller's; the authors tune the weight for each pair (see the recipes)."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy; it is not warmed up."""
        review_weight: float = weight(1.0, search=log(0.1, 20.0))
        """Weight of the hierarchical context loss, summed over levels."""
        warmup: float = fraction(20 / 240, search=linear(0.0, 0.25))
        """Fraction of training over which the review weight rises linearly from 0; 0 switches the warm-up off."""
        max_mid_channels: int = count(512)
        """Width of the fusion blocks, unless the student's penultimate width is smaller."""
        student_preact: bool = False
        """Read the student's stages before their last ReLU, as the authors do on ImageNet."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        student, teacher = setup.student, setup.teacher
        if self.config.student_preact and not student.has_preact:
            raise ValueError(f"{student.name} has no maps before the last ReLU: set student_preact = false")
        self.teacher_preact = teacher.has_preact
        pairs = deepest_pairs(student.shapes, teacher.shapes)
        in_channels = [*(ours[0] for ours, _ in pairs), student.width]
        out_channels = [*(theirs[0] for _, theirs in pairs), teacher.width]
        mid_channels = min(self.config.max_mid_channels, student.width)
        # Deepest first, the order in which they run and in which the authors' checkpoints number them.
        self.abfs = nn.ModuleList(
            Fusion(into, mid_channels, out, fuse=number > 0)
            for number, (into, out) in enumerate(zip(in_channels[::-1], out_channels[::-1], strict=True))
        )

    def fuse(self, student: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Fused maps, shallow to deep, for student levels and the sizes ``(H, W)`` of the teacher's."""
        deeper: Tensor | None = None
        fused: list[Tensor] = []
        for block, maps, size in zip(self.abfs, reversed(student), reversed(sizes), strict=True):
            output, deeper = block(maps, deeper, size)
            fused.insert(0, output)
        return fused

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        stages = student.preact if config.student_preact else student.stages
        taught = teacher.preact if self.teacher_preact else teacher.stages
        pooled = student.penultimate[:, :, None, None], teacher.penultimate[:, :, None, None]
        levels, goals = zip(*deepest_pairs(stages, taught), pooled, strict=True)
        fused = self.fuse(levels, [(goal.shape[2], goal.shape[3]) for goal in goals])
        review = torch.stack([hcl_loss(ours, goal) for ours, goal in zip(fused, goals, strict=True)]).sum()
        return {
            "ce": config.ce_weight * batch.cross_entropy(student.logits).mean(),
            "review": config.review_weight * warmup_factor(batch.progress, config.warmup) * review,
        }
