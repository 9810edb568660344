"""WTTM: the student, at temperature 1, matches the teacher's softmax raised to a power.

The power plays the part of a temperature that only the teacher has: raised to gamma and normalised, its probabilities
are the softmax of gamma times its logits. Each image's divergence is weighted by the sum of the powered probabilities
before they are normalised, from 1 where the teacher is sure to ``K ** (1 - gamma)`` where it knows nothing. Without the
weights it is TTM (see ttm). Powers are taken of logarithms, so that the smallest probabilities count as well.

Legend: ``B`` images, ``K`` classes.
"""

from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32
from kdbench.method import Batch, Method, Outputs, Paper, Reads, log, positive, weight


def powered_kl(student: Tensor, teacher: Tensor, exponent: float) -> Tensor:
    """KL from the teacher's powered, normalised softmax to the student's, in nats, ``(B,)``, from logits ``(B, K)``."""
    log_student = functional.log_softmax(at_least_float32(student), dim=1)
    log_powered = functional.log_softmax(exponent * at_least_float32(teacher), dim=1)
    return functional.kl_div(log_student, log_powered, reduction="none", log_target=True).sum(dim=1)


def power_sum(teacher: Tensor, exponent: float) -> Tensor:
    """Sum over classes of the teacher's probabilities to a power, ``(B,)``, from logits ``(B, K)``."""
    return (exponent * functional.log_softmax(at_least_float32(teacher), dim=1)).exp().sum(dim=1)


class WTTM(Method):
    """Cross entropy and the weighted divergence to the teacher's powered softmax."""

    FAMILY = "logits"
    PAPER = Paper(
        "Knowledge Distillation Based on Transformed Teacher Matching", "Zheng, Yang", "ICLR", 2024, "2402.11148"
    )
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "there is no squared temperature, and the weights of images are not normalised: how much the divergence counts "
        "depends on the exponent and the number of classes",
        "the authors take powers of float32 probabilities, which vanish for logits more than 104 below the largest; "
        "here they are taken of logarithms and do not",
        "the authors report the best test epoch; a protocol here says which epoch counts",
    )
    OURS = dict.fromkeys(
        ("exponent", "kd_weight"), "the authors' code states it for WTTM beside CRD on vgg13>vgg8 alone"
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: those of the authors' one command, which has CRD beside it."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy."""
        kd_weight: float = weight(4.0, search=log(0.5, 50.0))
        """Weight of the divergence, which has no squared temperature."""
        exponent: float = positive(0.2, search=log(0.05, 1.0))
        """Power of the teacher's probabilities, the paper's gamma: one over a temperature of the teacher alone."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        kl = powered_kl(student.logits, teacher.logits, config.exponent) * power_sum(teacher.logits, config.exponent)
        return {
            "ce": config.ce_weight * batch.cross_entropy(student.logits).mean(),
            "wttm": config.kd_weight * kl.mean(),
        }
