"""WKD: the paper's two distances at once, that of softmaxes by transport and that of the last map's moments.

WKD-L's terms and WKD-F's are added, each with its own weight; see `kdbench.methods.wkdl` and `kdbench.methods.wkdf`.

``loss = ce + target + logit_weight * transport + feature_weight * (ratio * |mean - mean'|^2 + |std - std'|^2)``

Legend: ``K`` classes.
"""

from typing import Literal

import torch
from torch import Tensor

from kdbench.method import (
    Batch,
    Outputs,
    Reads,
    Setup,
    among,
    choice,
    count,
    fraction,
    log,
    non_negative,
    positive,
    temperature,
    weight,
)

from ._class_distances import ClassDistanceMethod
from ._task import TaskMethod
from .nkd import target_loss
from .wkdf import PAPER, decay_factor, moment_errors, projector
from .wkdl import transport_loss


class WKD(ClassDistanceMethod):
    """Soft target, transport of probability between the other classes, and moments of the last map."""

    FAMILY = "features"
    PAPER = PAPER
    MIN_STAGES = 1
    MIN_CLASSES = 3
    READS = Reads(student={"logits", "stages"}, teacher={"logits", "stages"})
    DEVIATIONS = ("those of wkdl and wkdf, whose terms are added; both weights decay alike",)
    OURS = dict.fromkeys(
        ("logit_weight", "temperature", "feature_weight", "mean_ratio", "grid"),
        "the authors state it for resnet32x4>resnet8x4, whose setting is the default, and wrn_40_2>ShuffleNetV1 alone",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: the authors' for resnet32x4>resnet8x4."""

        logit_weight: float = weight(200.0, search=log(10.0, 1000.0))
        """Weight of the transport cost, which has no squared temperature."""
        temperature: float = temperature(8.0, search=log(1.0, 10.0))
        """Divides the logits of the other classes."""
        distances: Literal["maps", "logits", "classifier"] = "maps"
        """By what classes are alike: CKA of the teacher's last maps or logits, or the cosine of classifier weights."""
        sharpness: float = non_negative(1.0)
        """How fast the cost rises with the distance of classes; 0 takes the distance itself."""
        regularization: float = positive(0.05)
        """Weight of the plan's entropy."""
        iterations: int = count(10)
        """Sinkhorn's iterations; the gradient goes through all of them."""
        feature_weight: float = weight(0.08, search=log(0.005, 1.0))
        """Weight of the errors of means and deviations."""
        mean_ratio: float = positive(8.0)
        """Weight of the error of means over that of deviations."""
        grid: int = count(1, search=among(1, 2, 4))
        """Rows and columns of cells."""
        bottleneck: bool = choice(False)
        """Project by three convolutions, as on ImageNet, instead of one that meets the teacher's size."""
        decay_start: float = fraction(150 / 240)
        """Fraction of training after which both weights fall to 0 along a cosine; 1 switches the decay off."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        shapes = setup.student.shapes[-1], setup.teacher.shapes[-1]
        self.connector = projector(*shapes, self.config.grid, bottleneck=self.config.bottleneck)
        self.min_images = self.connector.min_images

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        cost = transport_loss(
            student.logits,
            teacher.logits,
            batch.targets,
            self.distances,
            temperature=config.temperature,
            sharpness=config.sharpness,
            regularization=config.regularization,
            iterations=config.iterations,
        )
        projected = torch.relu(self.connector(student.stages[-1]))
        mean, deviation = moment_errors(projected, teacher.stages[-1], config.grid)
        decay = decay_factor(batch.progress, config.decay_start)
        return {
            "target": target_loss(student.logits, teacher.logits, batch.targets),
            "transport": decay * config.logit_weight * cost,
            "mean": decay * config.feature_weight * config.mean_ratio * mean,
            "deviation": decay * config.feature_weight * deviation,
        }
