"""Tf-KD, regularisation (Tf-KD_reg): the student is distilled by a teacher that is made up, and needs none; see tfkd.

The made-up teacher gives the label 0.99 and the other classes equal shares. As in the authors' code these
probabilities, not logits, are divided by the temperature and put through another softmax: at temperature 20 all
classes are nearly alike, and the term penalises confidence. The student has no temperature.

Legend: ``B`` images, ``K`` classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32
from kdbench.method import Batch, Method, Outputs, Paper, Reads, fraction, linear, log, temperature, weight


def virtual_kl(student: Tensor, targets: Tensor, temperature: float, correct: float) -> Tensor:
    """KL from the made-up teacher to the student's softmax in nats, ``(B,)``, from logits ``(B, K)``.

    Parameters
    ----------
    student, targets
        Logits ``(B, K)`` and class numbers ``(B,)``.
    temperature
        Divides the made-up probabilities before their softmax.
    correct
        Probability that is made up for the label; the other classes share the rest.
    """
    log_student = functional.log_softmax(at_least_float32(student), dim=1)
    rest = (1 - correct) / (student.shape[1] - 1)
    made_up = torch.full_like(log_student, rest).scatter(1, targets[:, None], correct)
    log_teacher = functional.log_softmax(made_up / temperature, dim=1)
    return functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)


class TfReg(Method):
    """Cross entropy and the divergence to a made-up teacher; no teacher."""

    FAMILY = "logits"
    PAPER = Paper(
        "Revisiting Knowledge Distillation via Label Smoothing Regularization", "Yuan, Tay, Li, Wang, Feng",
        "CVPR", 2020, "1909.11723",
    )  # fmt: skip
    MIN_CLASSES = 2  # the classes beside the label share what it leaves
    READS = Reads(student={"logits"})
    DEVIATIONS = (
        "the authors' code puts the made-up probabilities through a second softmax, and has no squared temperature; "
        "the divergence is averaged over classes as well",
        "the authors' networks for CIFAR-100 are of another code base: 0.95, 40 and 1 (alpha, temperature, multiplier) "
        "for MobileNetV2, 0.95, 10 and 1 for ShuffleNetV2, 0.1, 40 and 50 for GoogLeNet",
    )
    OURS = dict.fromkeys(
        ("alpha", "temperature", "multiplier"),
        "no source states it for the networks here; the authors' for a ResNet18 of CIFAR's size",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: the authors' for ResNet18 on CIFAR-100."""

        alpha: float = fraction(0.1, search=linear(0.05, 0.95))
        """Weight of the divergence; that of the cross entropy is what is left to 1."""
        temperature: float = temperature(20.0, search=log(1.0, 40.0))
        """Divides the made-up probabilities; those of the student have none."""
        multiplier: float = weight(100.0, search=log(1.0, 200.0))
        """Further factor of the divergence, which is a mean over classes, too."""
        correct: float = fraction(0.99)
        """Probability of the label before the second softmax."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        kl = virtual_kl(student.logits, batch.targets, config.temperature, config.correct).mean()
        return {
            "ce": (1 - config.alpha) * batch.cross_entropy(student.logits).mean(),
            "virtual": config.alpha * config.multiplier * kl / student.logits.shape[1],
        }
