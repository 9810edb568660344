"""GDKD: KD's divergence in three parts: between the teacher's top classes and the rest, and among each of the two.

DKD with the teacher's ``top_k`` largest classes in place of the label, which plays no part here. Computed from
log-sum-exps, as DKD is here.

Legend: ``B`` images, ``K`` classes, ``k`` top classes.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from kdbench.functional import at_least_float32, warmup_factor
from kdbench.method import (
    Batch,
    Method,
    Outputs,
    Paper,
    Reads,
    Setup,
    choice,
    count,
    fraction,
    log,
    temperature,
    weight,
)

from .kd import kl_per_image

Direction = Literal["forward", "reverse", "mean"]


def split_top(student: Tensor, teacher: Tensor, top_k: int) -> list[tuple[Tensor, Tensor]]:
    """Logits ``(B, K)`` of student and teacher as those of the teacher's top classes, ``(B, k)``, and the rest.

    Of equal logits at the k-th place the lower class is taken, on every device.
    """
    order = teacher.argsort(dim=1, descending=True, stable=True)
    ours, theirs = (at_least_float32(logits).gather(1, order) for logits in (student, teacher))
    return [(ours[:, :top_k], theirs[:, :top_k]), (ours[:, top_k:], theirs[:, top_k:])]


def mass_loss(groups: list[tuple[Tensor, Tensor]], temperature: float) -> Tensor:
    """KL between the groups' shares of the softmax, mean over images; times the squared temperature."""
    shares = [
        torch.cat([temperature * (logits / temperature).logsumexp(dim=1, keepdim=True) for logits in side], dim=1)
        for side in zip(*groups, strict=True)
    ]
    return kl_per_image(shares[0], shares[1], temperature).mean()


def inner_loss(student: Tensor, teacher: Tensor, temperature: float, direction: Direction) -> Tensor:
    """KL among the classes of a group, mean over images; times the squared temperature.

    Forward is from teacher to student, as in KD, reverse the other way round.
    """
    forward, reverse = (student, teacher), (teacher, student)
    pairs = {"forward": [forward], "reverse": [reverse], "mean": [forward, reverse]}[direction]
    return torch.stack([kl_per_image(*pair, temperature).mean() for pair in pairs]).mean()


class GDKD(Method):
    """Distillation between the teacher's top classes and the rest, and inside each, weighted apart."""

    FAMILY = "logits"
    PAPER = Paper(
        "Rethinking Decoupled Knowledge Distillation: A Predictive Distribution Perspective", "Zheng, Cheng",
        "TNNLS", 2025, "2512.04625",
    )  # fmt: skip
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "the warm-up of 20 of 240 epochs is a fraction of training here, so it scales with the number of epochs",
        "losses are taken from log-sum-exps: gradients stay finite where the authors' float32 code gives NaN",
        "of equal logits at the k-th place the lower class is taken, where the authors' code depends on the device",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: those of the authors' code for CIFAR-100 with students of other kinds than the teacher."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy; it is not warmed up."""
        mass_weight: float = weight(1.0)
        """Weight of the divergence between the two groups' shares (w0)."""
        top_weight: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the divergence among the teacher's top classes (w1)."""
        rest_weight: float = weight(8.0, search=log(0.5, 32.0))
        """Weight of the divergence among the other classes (w2)."""
        top_k: int = count(5)
        """Number of the teacher's top classes."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides the logits of both networks."""
        warmup: float = fraction(20 / 240)
        """Fraction of training over which all three terms rise linearly from 0; 0 switches the warm-up off."""
        direction: Direction = choice("forward")
        """Of the divergences inside the two groups: KL from the teacher, to the teacher, or their mean."""

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.top_k >= setup.student.num_classes:
            raise ValueError(
                f"top_k must be below the number of classes, {setup.student.num_classes}, not {config.top_k}: "
                "set a smaller top_k"
            )

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        factor = warmup_factor(batch.progress, config.warmup)
        top, rest = groups = split_top(student.logits, teacher.logits, config.top_k)
        inner = (config.temperature, config.direction)
        return {
            "ce": config.ce_weight * batch.cross_entropy(student.logits).mean(),
            "mass": factor * config.mass_weight * mass_loss(groups, config.temperature),
            "top": factor * config.top_weight * inner_loss(*top, *inner),
            "rest": factor * config.rest_weight * inner_loss(*rest, *inner),
        }
