"""CTKD: KD at one learnable temperature, which ascends the loss that the student descends.

The temperature's gradient is reversed by a factor that grows from 0 to -1, so that distilling becomes harder during
training. Follows the authors' code: the temperature is 1 + 20 sigmoid(g), where g starts at 1.

Legend: ``B`` images, ``K`` classes.
"""

import math

import torch
from torch import Tensor, nn

from kdbench.method import (
    Batch,
    Method,
    Outputs,
    Paper,
    Reads,
    Setup,
    among,
    fraction,
    log,
    positive,
    temperature,
    weight,
)

from .kd import kl_per_image


def reversal(progress: float, warmup: float) -> float:
    """Return the factor on the temperature's gradient: from 0 to -1 along a cosine over ``warmup`` of training."""
    return -0.5 * (1 - math.cos(math.pi * progress / warmup)) if progress < warmup else -1.0


def with_scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value, whose gradient is multiplied by a factor on its way back."""
    fixed = value.detach()
    return fixed + factor * (value - fixed)


class CTKD(Method):
    """Cross entropy and the KL divergence at a temperature that makes it large."""

    FAMILY = "logits"
    PAPER = Paper(
        "Curriculum Temperature for Knowledge Distillation",
        "Li, Li, Yang, Zhao, Song, Luo, Li, Yang", "AAAI", 2023, "2211.16231",
    )  # fmt: skip
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "the temperature is between 1 and 21, though the authors' \"t_end\" is 20; it starts at 15.6, KD's being 4",
        "one temperature for all images, all that the authors published code of; the paper has one for each image too",
        "the curriculum of 10 of 240 epochs is a fraction of training here, so it scales with the number of epochs",
        "g is weight-decayed, as in the authors' code",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: the authors' script for CIFAR-100."""

        ce_weight: float = weight(0.1, search=among(0.0, 0.1, 1.0))
        """Weight of the cross entropy."""
        kd_weight: float = weight(0.9, search=log(0.1, 30.0))
        """Weight of the KL divergence, which includes the squared temperature."""
        min_temperature: float = temperature(1.0)
        """The temperature is above this."""
        temperature_range: float = positive(20.0, search=log(5.0, 50.0))
        """The temperature is below min_temperature plus this."""
        warmup: float = fraction(10 / 240)
        """Fraction of training over which the factor on the temperature's gradient goes from 0 to -1."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self.logit = nn.Parameter(torch.tensor(1.0))

    def temperature(self) -> Tensor:
        """Return the temperature, a scalar."""
        return self.config.min_temperature + self.config.temperature_range * torch.sigmoid(self.logit)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        temperature = with_scaled_gradient(self.temperature(), reversal(batch.progress, config.warmup))
        return {
            "ce": config.ce_weight * batch.cross_entropy(student.logits).mean(),
            "kd": config.kd_weight * kl_per_image(student.logits, teacher.logits, temperature).mean(),
        }
