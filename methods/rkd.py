"""RKD: distances between two images' features and angles among three follow the teacher's.

Distances are relative to the batch's mean distance; both are compared by a smooth L1 loss.

``d_ij = |f_i - f_j|``, ``distance = mean over i, j of huber(d^s_ij / mean(d^s) - d^t_ij / mean(d^t))``;
``e_ij = (f_j - f_i) / |f_j - f_i|``, ``angle = mean over i, j, k of huber(e^s_ij e^s_ik - e^t_ij e^t_ik)``

Means of the loss run over all ``B^2`` pairs and ``B^3`` triples, those of an image with itself as zeros, as in the
public code: a small batch weighs the relations less. Distances are taken from differences, not from inner products
as there, so that in float32 the distance of two equal images is not rounding noise.

Legend: ``B`` images; ``D`` width of the penultimate features.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, inner_products
from kdbench.method import Batch, Outputs, Paper, Reads, log, positive, weight

from ._task import TaskMethod


def differences(features: Tensor) -> tuple[Tensor, Tensor]:
    """Differences ``f_j - f_i`` of features ``(B, D)``, ``(B, B, D)``, and their squared lengths ``(B, B)``."""
    rows = at_least_float32(features)
    edges = rows[None, :] - rows[:, None]
    return edges, edges.square().sum(dim=2)


def relative_distances(squares: Tensor, epsilon: float = 1e-12) -> Tensor:
    """Distances over their mean, ``(B, B)``, from squared ones.

    Off the diagonal a squared distance is at least ``epsilon``; below, its gradient is 0. The mean is that of
    positive distances; one image has only its distance of 0.
    """
    itself = torch.eye(len(squares), dtype=torch.bool, device=squares.device)
    distances = squares.masked_fill(itself, 1).clamp(min=epsilon).sqrt().masked_fill(itself, 0)
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.clamp(min=epsilon)


def angles(edges: Tensor, squares: Tensor, epsilon: float = 1e-12) -> Tensor:
    """Cosines ``(B, B, B)`` of the angles at image ``i`` between ``j`` and ``k``, from `differences`.

    Two images whose squared distance is at most ``epsilon`` have no direction: their cosines are 0, without gradient.
    """
    apart = squares > epsilon
    inverse = squares.where(apart, 1).rsqrt().where(apart, 0)
    directions = edges * inverse[:, :, None]
    return inner_products(directions, directions)


def rkd_losses(student: Tensor, teacher: Tensor, epsilon: float = 1e-12) -> tuple[Tensor, Tensor]:
    """Distance and angle loss, means over pairs and triples, from features ``(B, D)``; widths may differ."""
    ours, theirs = (differences(features) for features in (student, teacher))
    distance = functional.smooth_l1_loss(relative_distances(ours[1], epsilon), relative_distances(theirs[1], epsilon))
    angle = functional.smooth_l1_loss(angles(*ours, epsilon), angles(*theirs, epsilon))
    return distance, angle


class RKD(TaskMethod):
    """Distances and angles of the penultimate features. One image alone has no relations: its loss is 0.

    A batch takes memory of ``B * B * D`` and ``B * B * B`` numbers.
    """

    FAMILY = "relations"
    PAPER = Paper("Relational Knowledge Distillation", "Park, Kim, Lu, Cho", "CVPR", 2019, "1904.05068")
    READS = Reads(student={"penultimate"}, teacher={"penultimate"})
    DEVIATIONS = (
        "means over all pairs and triples with those of an image and itself, as the code; the paper's are of others",
        "a batch of one image has a loss of 0; the public code's is NaN",
        "equal images have no direction and no gradient; in the public code's float32 their distance is rounding noise",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: RepDistiller's setting for all CIFAR-100 pairs."""

        distance_weight: float = weight(25.0, search=log(2.5, 250.0))
        """Weight of the distance loss."""
        angle_weight: float = weight(50.0, search=log(5.0, 500.0))
        """Weight of the angle loss."""
        epsilon: float = positive(1e-12)
        """Least squared distance between two images."""

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        distance, angle = rkd_losses(student.penultimate, teacher.penultimate, config.epsilon)
        return {"distance": config.distance_weight * distance, "angle": config.angle_weight * angle}
