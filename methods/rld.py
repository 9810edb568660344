"""RLD: the teacher's confidence is distilled to the label, and of its ranking what does not contradict the label.

The student's probability of the label follows the teacher's largest probability, whatever class has it; and the two
networks' softmax is compared among the classes that the teacher ranks strictly below the label. An image whose label
the teacher ranks last has no such class and adds 0. Computed from log-sum-exps, as DKD is here.

Legend: ``B`` images, ``K`` classes.
"""

from torch import Tensor

from kdbench.functional import at_least_float32, warmup_factor
from kdbench.method import Batch, Method, Outputs, Paper, Reads, among, choice, fraction, log, positive, weight

from .dkd import target_and_rest
from .kd import kl_per_image, standardized

EXCLUDED = -1e9
"""Logit of a class that is left out: its probability is 0, and its logarithm is finite."""


def confidence_loss(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """KL from the teacher's (top class, all others) to the student's (label, all others), ``(B,)``, from ``(B, K)``.

    Logits are divided by the temperature, and the divergence, in nats, is multiplied by its square.
    """
    ours = target_and_rest(student, targets, temperature)
    return kl_per_image(ours, target_and_rest(teacher, teacher.argmax(dim=1), temperature), temperature)


def masked_loss(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """KD's KL among the classes whose teacher logit is below that of the label, ``(B,)``, from logits ``(B, K)``."""
    excluded = teacher >= teacher.gather(1, targets[:, None])
    ours, theirs = (at_least_float32(logits).masked_fill(excluded, EXCLUDED) for logits in (student, teacher))
    return kl_per_image(ours, theirs, temperature)


class RLD(Method):
    """Confidence of the label, and the correlations of the classes below it."""

    FAMILY = "logits"
    PAPER = Paper(
        "Knowledge Distillation with Refined Logits", "Sun, Lyu, Wang, Liu, Tian, Wang",
        "ICCV", 2025, "2408.07703",
    )  # fmt: skip
    MIN_CLASSES = 3  # of two, one at most is below the label: the second term is always 0
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "the temperature of the confidence is 1 in the authors' code and, by --same-t, that of the ranking in their "
        "command for CIFAR-100, which the defaults follow",
        "the warm-up of 20 of 240 epochs is a fraction of training here, so it scales with the number of epochs",
        "losses are taken from log-sum-exps: gradients stay finite where the authors' float32 code gives NaN",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: those of the authors' command for CIFAR-100, vgg13>vgg8."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy; it is not warmed up."""
        alpha: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the confidence term (SCD)."""
        beta: float = weight(8.0, search=log(0.5, 32.0))
        """Weight of the term of the classes below the label (MCD)."""
        temperature: float = positive(4.0, search=log(1.0, 10.0))
        """Divides the logits of both networks among the classes below the label."""
        confidence_temperature: float = positive(4.0)
        """Divides the logits of both networks in the confidence term."""
        warmup: float = fraction(20 / 240)
        """Fraction of training over which alpha and beta rise linearly from 0; 0 switches the warm-up off."""
        standardize: bool = choice(False, search=among(False, True))
        """Take both terms of z-scores of the logits, as in LSKD (see kd)."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        factor = warmup_factor(batch.progress, config.warmup)
        prepared = standardized if config.standardize else at_least_float32
        inputs = (prepared(student.logits), prepared(teacher.logits), batch.targets)
        return {
            "ce": config.ce_weight * batch.cross_entropy(student.logits).mean(),
            "scd": factor * config.alpha * confidence_loss(*inputs, config.confidence_temperature).mean(),
            "mcd": factor * config.beta * masked_loss(*inputs, config.temperature).mean(),
        }
