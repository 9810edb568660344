"""CRLD: the student's plain and strong views follow the teacher's, each within its view and across the two.

Images count only where the teacher is sure: within a view where the probability of its best class on the plain view
reaches one threshold, across the views where that on the strong view reaches another. The divergences are averaged
over all images, so that they shrink with the share that counts.

``within = KL(plain, teacher's plain) + KL(strong, teacher's strong)``,
``cross = KL(strong, teacher's plain) + KL(plain, teacher's strong)``

Legend: ``B`` images, ``K`` classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32
from kdbench.method import Batch, Method, Outputs, Paper, Reads, ViewPlan, fraction, linear, log, temperature, weight

from .kd import kl_per_image


def is_sure(teacher: Tensor, threshold: float) -> Tensor:
    """Return 1 where the largest probability of logits ``(B, K)`` reaches a threshold, else 0; ``(B,)``."""
    largest = functional.softmax(at_least_float32(teacher), dim=1).amax(dim=1)
    return (largest >= threshold).to(largest.dtype)


class CRLD(Method):
    """Cross entropy of two views, and divergences within and across them where the teacher is sure."""

    FAMILY = "logits"
    PAPER = Paper(
        "Cross-View Consistency Regularisation for Knowledge Distillation",
        "Zhang, Liu, Cai, Ma", "ACM MM", 2024, "2412.16493",
    )  # fmt: skip
    READS = Reads(student={"logits"}, teacher={"logits"})
    VIEWS = ViewPlan(num_strong=1)
    DEVIATIONS = (
        "follows the copy of the authors' code in haiduo/DeepKD; the authors' own repository was not to be had",
        "both views go through the networks in one batch; the authors' student sees them one after the other, so that "
        "its batch norms have the statistics of one view each",
        "on ImageNet that copy has temperature = 1 and ce_weight = 2",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: those of that copy for CIFAR-100."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy, a sum over the two views."""
        within_weight: float = weight(2.0, search=log(0.2, 20.0))
        """Weight of the divergences within a view, which include the squared temperature."""
        cross_weight: float = weight(0.5, search=log(0.05, 5.0))
        """Weight of the divergences across views, which include the squared temperature."""
        plain_threshold: float = fraction(0.9, search=linear(0.0, 1.0))
        """Probability on the plain view from which an image counts within views."""
        strong_threshold: float = fraction(0.2)
        """Probability on the strong view from which an image counts across views."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides the logits of both networks."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        plain, strong = student.logits.split(batch.size)
        teacher_plain, teacher_strong = teacher.logits.split(batch.size)

        def divergence(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
            return torch.stack([kl_per_image(*pair, config.temperature) for pair in pairs]).sum(dim=0)

        within = divergence([(plain, teacher_plain), (strong, teacher_strong)])
        cross = divergence([(strong, teacher_plain), (plain, teacher_strong)])
        ce = torch.stack([batch.cross_entropy(logits) for logits in (plain, strong)]).sum(dim=0)
        return {
            "ce": config.ce_weight * ce.mean(),
            "within": config.within_weight * (is_sure(teacher_plain, config.plain_threshold) * within).mean(),
            "cross": config.cross_weight * (is_sure(teacher_strong, config.strong_threshold) * cross).mean(),
        }
