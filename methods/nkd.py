"""NKD: the teacher's probability of the target weights the cross entropy; the other classes are distilled apart.

Both networks' probabilities of the other classes are normalised to sum to one. Follows the authors' code: their term
is a cross entropy, from which the teacher's entropy, a constant, is not subtracted, and the temperature divides the
logits of that term alone.

Legend: ``B`` images, ``K`` classes.
"""

from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, cross_entropy
from kdbench.method import Batch, Outputs, Paper, Reads, log, temperature, weight

from ._task import TaskMethod
from .dkd import split_target


def target_loss(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of each image weighted by the teacher's probability of the target; mean over ``(B, K)`` logits."""
    log_teacher = -cross_entropy(teacher, targets)
    return (log_teacher.exp() * cross_entropy(student, targets)).mean()


def others_loss(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross entropy between the distributions over the classes other than the target, from ``(B, K)`` logits.

    Logits are divided by the temperature; summed over classes, averaged over images, times the squared temperature.
    """
    others = [split_target(at_least_float32(logits), targets)[1] / temperature for logits in (student, teacher)]
    terms = functional.softmax(others[1], dim=1) * functional.log_softmax(others[0], dim=1)
    return -(temperature**2) * terms.sum(dim=1).mean()


class NKD(TaskMethod):
    """The target's soft weight, and the normalised other classes."""

    FAMILY = "logits"
    PAPER = Paper(
        "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized "
        "Loss and Customized Soft Labels",
        "Yang, Zeng, Li, Zhang, Yuan, Li", "ICCV", 2023, "2303.13005",
    )  # fmt: skip
    MIN_CLASSES = 3  # of two, only one is left besides the target: its term is always 0
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "the other classes' term is the authors' cross entropy; it is not 0 where student and teacher agree",
        "the authors have temperature 1 and gamma 1.5 on ImageNet, 3 and 3.5 for their one pair on CIFAR-100",
    )
    OURS = dict.fromkeys(
        ("temperature", "gamma"),
        "no source states it for the CIFAR-100 pairs here; the authors' main setting, ImageNet's",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: the authors' on ImageNet."""

        gamma: float = weight(1.5, search=log(0.15, 15.0))
        """Weight of the other classes' term, which includes the squared temperature."""
        temperature: float = temperature(1.0, search=log(0.5, 5.0))
        """Divides the logits of the other classes."""

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        inputs = (student.logits, teacher.logits, batch.targets)
        others = others_loss(*inputs, config.temperature)
        return {"target": target_loss(*inputs), "others": config.gamma * others}
