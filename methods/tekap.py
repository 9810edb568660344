"""TeKAP: the student also matches softened softmaxes of a teacher whose logits are perturbed, anew in each step.

Noise stands for the views of several teachers. This is the level of logits; that of features, a part of CRD's loss in
the authors' code, is not here.

``loss = 0.9 * KL(teacher || student) + 0.72 * sum over 3 draws of KL(0.9 teacher + 0.1 noise || student)``

Legend: ``B`` images, ``K`` classes, ``N`` perturbed teachers.
"""

import torch
from torch import Tensor

from kdbench.functional import at_least_float32
from kdbench.method import Batch, Method, Outputs, Paper, Reads, fraction, linear, log, temperature, weight

from .kd import kl_per_image

NUM_PERTURBED = 3
"""Perturbed teachers, as in the authors' code."""


def draw_noise(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers ``(N, B, K)`` for logits ``(B, K)``, at least float32."""
    like = at_least_float32(logits)
    return torch.randn(NUM_PERTURBED, *like.shape, generator=generator, device=like.device, dtype=like.dtype)


def divergences(student: Tensor, teacher: Tensor, noise: Tensor, noise_share: float, temperature: float) -> Tensor:
    """KL divergences ``(1 + N,)`` to the teacher and to each perturbed one, from logits ``(B, K)``.

    The mean over images, with the squared temperature. Noise is ``(N, B, K)``.
    """
    perturbed = (1 - noise_share) * at_least_float32(teacher) + noise_share * noise
    teachers = torch.cat([at_least_float32(teacher), perturbed.flatten(0, 1)])
    per_image = kl_per_image(student.repeat(1 + len(noise), 1), teachers, temperature)
    return per_image.view(1 + len(noise), -1).mean(dim=1)


class TeKAP(Method):
    """Cross entropy and the KL divergences to the teacher and to perturbed copies of it."""

    FAMILY = "logits"
    PAPER = Paper(
        "Single Teacher, Multiple Perspectives: Teacher Knowledge Augmentation for Enhanced Knowledge Distillation",
        "Hossain, Akhter, Hong, Huh", "ICLR", 2025,
    )  # fmt: skip
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "all divergences weigh 3.06, 3.4 times as much as kd's 0.9, as in the authors' code; kd with kd_weight = 3.06 "
        "tells what the noise adds",
        "the authors' code for features (with CRD, whose memory it moves twice a step) is not here",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: the authors' code for CIFAR-100."""

        ce_weight: float = weight(0.1)
        """Weight of the cross entropy."""
        kd_weight: float = weight(0.9, search=log(0.1, 30.0))
        """Weight of the KL divergence to the teacher, which includes the squared temperature."""
        perturbed_weight: float = weight(0.72, search=log(0.1, 30.0))
        """Weight of that to each of the three perturbed teachers; 0.9 x 0.8 in the authors' code."""
        noise_share: float = fraction(0.1, search=linear(0.0, 0.5))
        """Share of noise in their logits; the rest is the teacher's."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides the logits of student and teachers."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        noise = draw_noise(teacher.logits, batch.generator)
        each = divergences(student.logits, teacher.logits, noise, config.noise_share, config.temperature)
        return {
            "ce": config.ce_weight * batch.cross_entropy(student.logits).mean(),
            "kd": config.kd_weight * each[0],
            "perturbed": config.perturbed_weight * each[1:].sum(),
        }
