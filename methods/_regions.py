"""SDD's regions, which its three methods share: the classifier's logits of each cell of the last feature map.

Scale Decoupled Distillation averages the map whose mean the classifier sees to 4 x 4 cells, these to 2 x 2 and to the
whole, and classifies each. A method for logits then compares the two networks region by region. A region of an image
counts twice where the teacher is right of the whole and wrong of the region, or the other way round.

Legend: ``B`` images, ``K`` classes, ``D`` width, ``N`` regions: the whole, 4 cells and, where they are used, 16 more.
"""

import abc
from typing import Literal, final

import torch
from torch import Tensor

from kdbench.functional import inner_products, pooled_to, warmup_factor
from kdbench.method import Batch, Method, Outputs, Paper, Reads, Setup, among, choice, fraction, weight

from ._maps import map_shapes

CELLS = (4, 4)
PAPER = Paper("Scale Decoupled Distillation", "Wei, Luo, Luo", "CVPR", 2024, "2403.13512")
DEVIATIONS = (
    "maps whose sides 4 does not divide have overlapping cells, as in the authors' code: their mean is not that of the "
    "map, which the cross entropy reads",
    "the authors replace losses and gradients that are not finite by 0; here they end the run",
)


def regions(features: Tensor, finest: int) -> Tensor:
    """Mean features of the whole, of 2 x 2 cells and at most of 4 x 4, ``(B, N, D)``, from maps ``(B, D, H, W)``."""
    cells = pooled_to(features, CELLS)
    sides = [side for side in (1, 2, 4) if side <= finest]
    return torch.cat([pooled_to(cells, (side, side)).flatten(2) for side in sides], dim=2).mT


def region_logits(outputs: Outputs, finest: int) -> Tensor:
    """Logits of each region, ``(B, N, K)``, at least float32."""
    logits = inner_products(regions(outputs.map, finest), outputs.weight)
    return logits if outputs.bias is None else logits + outputs.bias


def region_weights(teacher: Tensor, targets: Tensor) -> Tensor:
    """Return 2 where the teacher is right of one of a region and the whole, else 1; ``(B, N)`` from ``(B, N, K)``."""
    right = teacher.argmax(dim=2) == targets[:, None]
    return torch.where(right == right[:, :1], 1.0, 2.0)


class RegionMethod(Method, abc.ABC):
    """A method for logits, applied to the regions of the last feature map."""

    FAMILY = "logits"
    PAPER = PAPER
    READS = Reads(student={"logits", "map"}, teacher={"map"})

    class Config(Method.Config):
        """What is the same whatever compares the logits."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy of the whole image; it is not warmed up."""
        finest: Literal[2, 4] = choice(4, search=among(2, 4))
        """Rows and columns of the finest regions: the authors' scales 1, 2 or 1, 2, 4."""
        warmup: float = fraction(20 / 240)
        """Fraction of training over which the other terms rise linearly from 0; 0 switches the warm-up off."""

    config: Config

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        map_shapes(type(self).__name__, setup)

    @abc.abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return named, weighted terms of each region, ``(B * N,)``, from logits ``(B * N, K)``."""

    @final
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted cross entropy, and the terms, mean over the weighted regions of all images."""
        config = self.config
        ours, theirs = (region_logits(outputs, config.finest) for outputs in (student, teacher))
        factor, weights = warmup_factor(batch.progress, config.warmup), region_weights(theirs, batch.targets).flatten()
        targets = batch.targets.repeat_interleave(ours.shape[1])
        terms = self.compare(ours.flatten(0, 1), theirs.flatten(0, 1), targets)
        ce = config.ce_weight * batch.cross_entropy(student.logits).mean()
        return {"ce": ce} | {name: factor * (weights * term).mean() for name, term in terms.items()}
