"""TeKAP: the student also matches softened softmaxes of a teacher whose logits are perturbed, anew in each step.

Noise stands for the views of several teachers. This is the level of logits; that of features, a part of CRD's loss in
the authors' code, is not here. With ``N`` perturbed teachers the divergences add up to ``1 + 0.8 N`` times KD's:

``loss = KL(teacher || student) + 0.8 * sum over i of KL(0.9 teacher + 0.1 noise_i || student)``

Legend: ``B`` images, ``K`` classes, ``N`` perturbed teachers.
"""

import torch
from torch import Tensor

from kdbench.functional import at_least_float32
from kdbench.method import (
    Batch,
    Method,
    Outputs,
    Paper,
    Reads,
    among,
    count,
    fraction,
    log,
    temperature,
    weight,
)

from .kd import kl_per_image


def draw_noise(num: int, logits: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers ``(N, B, K)`` for logits ``(B, K)``, at least float32."""
    like = at_least_float32(logits)
    return torch.randn(num, *like.shape, generator=generator, device=like.device, dtype=like.dtype)


def tekap_loss(
    student: Tensor, teacher: Tensor, noise: Tensor, noise_share: float, perturbed_weight: float, temperature: float
) -> Tensor:
    """KL divergences to the teacher and to the perturbed ones, with their squared temperature; mean over images.

    Logits are ``(B, K)``, noise ``(N, B, K)``; the divergences to the ``N`` perturbed teachers are summed.
    """
    perturbed = (1 - noise_share) * at_least_float32(teacher) + noise_share * noise
    teachers = torch.cat([at_least_float32(teacher), perturbed.flatten(0, 1)])
    divergences = kl_per_image(student.repeat(1 + len(noise), 1), teachers, temperature).view(1 + len(noise), -1)
    means = divergences.mean(dim=1)
    return means[0] + perturbed_weight * means[1:].sum()


class TeKAP(Method):
    """Cross entropy and the KL divergences to the teacher and to perturbed copies of it."""

    FAMILY = "logits"
    PAPER = Paper(
        "Single Teacher, Multiple Perspectives: Teacher Knowledge Augmentation for Enhanced Knowledge Distillation",
        "Hossain, Akhter, Hong, Huh", "ICLR", 2025,
    )  # fmt: skip
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "the divergences add up to 3.4 times KD's, as in the authors' code: kd with kd_weight = 3.06 is the fair rival",
        "the authors' code for features (with CRD, whose memory it moves twice a step) is not here",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: the authors' code for CIFAR-100."""

        ce_weight: float = weight(0.1, search=among(0.0, 0.1, 1.0))
        """Weight of the cross entropy."""
        kd_weight: float = weight(0.9, search=log(0.1, 30.0))
        """Weight of all divergences, which include the squared temperature."""
        perturbed_weight: float = weight(0.8)
        """Weight of each perturbed teacher's divergence; the teacher's own has weight 1."""
        num_perturbed: int = count(3)
        """Perturbed teachers."""
        noise_share: float = fraction(0.1, search=among(0.0, 0.1, 0.3, 0.5))
        """Share of noise in their logits; the rest is the teacher's."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides the logits of student and teachers."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        noise = draw_noise(config.num_perturbed, teacher.logits, batch.generator)
        weights = config.noise_share, config.perturbed_weight
        tekap = tekap_loss(student.logits, teacher.logits, noise, *weights, config.temperature)
        return {
            "ce": config.ce_weight * batch.cross_entropy(student.logits).mean(),
            "tekap": config.kd_weight * tekap,
        }
