"""PKT: the student's probabilities with which an image sees the others of a batch follow the teacher's.

The probabilities are in proportion to the cosine similarity of the images' features.

``x = f / (|f| + eps)``, ``P_ij = (1 + x_i x_j) / sum_k (1 + x_i x_k)``,
``loss = mean over i, j of P^t_ij log((P^t_ij + eps) / (P^s_ij + eps))``

The loss is a mean over all pairs of images of probabilities that sum to 1 over a row: it falls as the batch grows,
about as ``1 / B``. Its weight belongs to batches of 64.

Legend: ``B`` images; ``D`` width of the penultimate features.
"""

import torch
from torch import Tensor

from kdbench.functional import at_least_float32, inner_products
from kdbench.method import Batch, Outputs, Paper, Reads, log, positive, weight

from ._task import TaskMethod


def neighbour_probabilities(features: Tensor, epsilon: float = 1e-7) -> Tensor:
    """Probabilities ``(B, B)`` with which each image sees the batch's images, itself too, from features ``(B, D)``.

    In proportion to ``1 + cosine``; rows sum to 1. A row of zeros sees all alike, with a finite gradient.
    """
    rows = at_least_float32(features)
    rows = rows / (torch.linalg.vector_norm(rows, dim=1, keepdim=True) + epsilon)
    similarity = (inner_products(rows, rows) + 1) / 2
    return similarity / similarity.sum(dim=1, keepdim=True)


def pkt_loss(student: Tensor, teacher: Tensor, epsilon: float = 1e-7) -> Tensor:
    """KL divergence of neighbour probabilities in nats, mean over all ``B * B`` entries; features ``(B, D)``."""
    ours, theirs = (neighbour_probabilities(features, epsilon) for features in (student, teacher))
    return (theirs * ((theirs + epsilon) / (ours + epsilon)).log()).mean()


class PKT(TaskMethod):
    """Neighbour probabilities of the penultimate features. One image alone has no neighbours: its loss is 0."""

    FAMILY = "relations"
    PAPER = Paper(
        "Learning Deep Representations with Probabilistic Knowledge Transfer",
        "Passalis, Tefas", "ECCV", 2018, "1803.10837",
    )  # fmt: skip
    READS = Reads(student={"penultimate"}, teacher={"penultimate"})
    DEVIATIONS = (
        "mean over the pairs of a batch with the diagonal, as the authors' code; the paper sums over pairs without it",
        "features of zeros get a finite gradient; the public code's is NaN",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: RepDistiller's setting for all CIFAR-100 pairs."""

        pkt_weight: float = weight(30000.0, search=log(3e3, 3e5))
        """Weight of the mean divergence, for batches of 64."""
        epsilon: float = positive(1e-7)
        """Added to the length of features and to probabilities inside the logarithm."""

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = pkt_loss(student.penultimate, teacher.penultimate, self.config.epsilon)
        return {"pkt": self.config.pkt_weight * loss}
