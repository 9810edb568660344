"""DIST: the student follows the teacher's relations rather than its probabilities.

Pearson's correlation of the softened predictions, of each image over the classes (inter-class) and of each class over
the images of the batch (intra-class). Follows the authors' code: both terms carry the squared temperature.

Legend: ``B`` images, ``K`` classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32
from kdbench.method import Batch, Outputs, Paper, Reads, log, non_negative, temperature, weight

from ._task import TaskMethod


def pearson(ours: Tensor, theirs: Tensor, *, dim: int, epsilon: float) -> Tensor:
    """Pearson's correlation of two matrices along ``dim``; ``epsilon`` is added to the product of the norms."""
    ours, theirs = (values - values.mean(dim=dim, keepdim=True) for values in (ours, theirs))
    norms = torch.linalg.vector_norm(ours, dim=dim) * torch.linalg.vector_norm(theirs, dim=dim)
    correlation: Tensor = (ours * theirs).sum(dim=dim) / (norms + epsilon)
    return correlation


def relation_losses(student: Tensor, teacher: Tensor, temperature: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """Inter-class and intra-class loss of logits ``(B, K)``.

    ``temperature**2 * (1 - r)``, r the mean correlation of the softened predictions over the images, each along its
    classes, and over the classes, each along its images. Of a single image the intra-class r is 0.
    """
    ours, theirs = (functional.softmax(at_least_float32(x) / temperature, dim=1) for x in (student, teacher))
    inter, intra = (1 - pearson(ours, theirs, dim=dim, epsilon=epsilon).mean() for dim in (1, 0))
    return temperature**2 * inter, temperature**2 * intra


class DIST(TaskMethod):
    """Correlation of predictions between the classes of an image and between the images of a class."""

    FAMILY = "logits"
    PAPER = Paper(
        "Knowledge Distillation from A Stronger Teacher", "Huang, You, Wang, Qian, Xu", "NeurIPS", 2022, "2205.10536"
    )
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = ("the authors' CIFAR-100 code has one weight of 2 for both terms, here inter_weight and intra_weight",)
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: the authors' for CIFAR-100."""

        inter_weight: float = weight(2.0, search=log(0.2, 20.0))
        """Weight of the inter-class term, which includes the squared temperature; the paper's beta."""
        intra_weight: float = weight(2.0, search=log(0.2, 20.0))
        """Weight of the intra-class term, which includes the squared temperature; the paper's gamma."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides the logits of both networks; 1 on ImageNet."""
        epsilon: float = non_negative(1e-8)
        """Added to the product of norms below each correlation."""

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        inter, intra = relation_losses(student.logits, teacher.logits, config.temperature, config.epsilon)
        return {"inter": config.inter_weight * inter, "intra": config.intra_weight * intra}
