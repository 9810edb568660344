"""WSLD: KD in which an image counts the less, the surer the student is of its label than the teacher.

An image weighs ``1 - exp(-CE_student / CE_teacher)``, from 0 where the student is sure of the label to 1 where the
teacher is. The soft term is a cross entropy, from which the teacher's entropy, a constant, is not subtracted; at its
temperature and times its square.

Legend: ``B`` images, ``K`` classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, cross_entropy
from kdbench.method import Batch, Method, Outputs, Paper, Reads, log, temperature, weight


@torch.no_grad()
def image_weights(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Weight of each image, ``(B,)`` in [0, 1], from logits ``(B, K)`` at temperature 1; without a gradient.

    1e-7 is added to the teacher's cross entropy, as in the authors' code.
    """
    ratio = cross_entropy(student, targets) / (cross_entropy(teacher, targets) + 1e-7)
    return -torch.expm1(-ratio)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross entropy of the student's softmax with the teacher's, in nats, ``(B,)``, from logits ``(B, K)``.

    Logits are divided by the temperature; the result is multiplied by its square.
    """
    probabilities = functional.softmax(at_least_float32(teacher) / temperature, dim=1)
    log_student = functional.log_softmax(at_least_float32(student) / temperature, dim=1)
    return -(temperature**2) * (probabilities * log_student).sum(dim=1)


class WSLD(Method):
    """Cross entropy, and soft labels that are weighted image by image."""

    FAMILY = "logits"
    PAPER = Paper(
        "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective",
        "Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang", "ICLR", 2021, "2102.00650",
    )  # fmt: skip
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "the authors' teacher is in training mode: it has the batch's statistics, and its running ones move; here it "
        "is in eval mode and stays as it is",
        "the soft term is the authors' cross entropy; it is not 0 where student and teacher agree",
    )
    OURS = dict.fromkeys(
        ("alpha", "temperature"), "the authors' code has no setting for CIFAR-100; the default is theirs for ImageNet"
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: the authors' on ImageNet."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy."""
        alpha: float = weight(2.5, search=log(0.25, 25.0))
        """Weight of the soft term, which includes the squared temperature."""
        temperature: float = temperature(2.0, search=log(1.0, 10.0))
        """Divides the logits of both networks in the soft term; the images' weights have none."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        weights = image_weights(student.logits, teacher.logits, batch.targets)
        soft = weights * soft_cross_entropy(student.logits, teacher.logits, config.temperature)
        return {"ce": config.ce_weight * batch.cross_entropy(student.logits).mean(), "soft": config.alpha * soft.mean()}
