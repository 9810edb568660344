"""KDSVD: the student's relations between singular vectors of neighbouring stages follow the teacher's.

A stage is summarised by the leading right singular vectors of its map. The paper's map is a matrix of positions by
channels, as in RepDistiller; mdistiller's is one of channels and rows by columns (``matrix = "columns"``).

``M = U S V^T`` of each image's map; for each of the teacher's first ``k`` vectors the most parallel of the student's
first ``k + 3`` is taken and turned towards it; both are multiplied by the teacher's values, scaled to unit length;
``r_ab = exp(-(v_a - w_b)^2 / 8)`` for vectors ``v``, ``w`` of stages i and i - 1, ``loss = sum (r^s - r^t)^2 / B``

The sign of a singular vector is arbitrary and the loss depends on the teacher's: here its entries sum to at least 0,
as the first vector's do anyhow where maps are not negative.

Legend: ``B`` images; maps ``(B, C, H, W)``; ``N`` rows and ``D`` columns of the matrix; ``k`` vectors.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, deepest_pairs, without_autocast
from kdbench.method import Batch, Outputs, Paper, Reads, Setup, among, count, log, weight

from ._eigenvectors import right_vectors
from ._task import TaskMethod

EXTRA = 3
"""Student vectors to choose from, beyond the teacher's number."""


def oriented(vectors: Tensor) -> Tensor:
    """Vectors ``(B, D, k)`` with the sign that makes their sum at least 0."""
    return torch.where(vectors.sum(dim=1, keepdim=True) < 0, -vectors, vectors)


def aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """For each teacher vector ``(B, D, k)`` the most parallel of the student's, turned towards it, ``(B, D, k)``."""
    cosines = student.mT @ teacher
    best = cosines.detach().abs().argmax(dim=1, keepdim=True)
    chosen = student.gather(2, best.expand(-1, student.shape[1], -1))
    return chosen * cosines.detach().gather(1, best).sign()


def as_matrices(maps: Tensor, matrix: str) -> Tensor:
    """Maps ``(B, C, H, W)`` as ``(B, H * W, C)`` for ``channels``, as ``(B, C * H, W)`` for ``columns``."""
    return at_least_float32(maps.flatten(2).mT if matrix == "channels" else maps.flatten(1, 2))


def kdsvd_losses(student: Sequence[Tensor], teacher: Sequence[Tensor], num: int, matrix: str) -> Tensor:
    """Squared differences of the relations of neighbouring stages, summed over entries, mean over images.

    From stages of maps ``(B, C, H, W)``; one entry for each pair of neighbours.
    """
    with without_autocast(student[0].device):
        ours, theirs = list[Tensor](), list[Tensor]()
        for student_maps, teacher_maps in zip(student, teacher, strict=True):
            goal, values = right_vectors(as_matrices(teacher_maps, matrix), num)
            goal, factors = oriented(goal), functional.normalize(values, dim=1)[:, None]
            candidates, _ = right_vectors(as_matrices(student_maps, matrix), num + EXTRA)
            ours.append(aligned(candidates, goal) * factors)
            theirs.append(goal * factors)
        losses = [
            (_relations(ours[i], ours[i - 1]) - _relations(theirs[i], theirs[i - 1])).square().sum() / len(ours[i])
            for i in range(1, len(ours))
        ]
    return torch.stack(losses)


def _relations(deeper: Tensor, shallower: Tensor) -> Tensor:
    """Relations ``(B, D, D', k)`` of vectors ``(B, D, k)`` and ``(B, D', k)``."""
    return (-(deeper[:, :, None] - shallower[:, None]).square() / 8).exp()


class KDSVD(TaskMethod):
    """Relations of singular vectors of neighbouring stages, at least two; the deepest stages are matched.

    Vectors are compared entry by entry: at each matched stage the networks need equally many channels, or with
    ``columns`` equal widths.
    """

    FAMILY = "features"
    VERSION = 2  # on the CPU the vectors come from a decomposition
    PAPER = Paper(
        "Self-supervised Knowledge Distillation Using Singular Value Decomposition",
        "Lee, Kim, Song", "ECCV", 2018, "1807.06819",
    )  # fmt: skip
    MIN_STAGES = 2
    READS = Reads(student={"stages"}, teacher={"stages"})
    DEVIATIONS = (
        "the matrix of a map is the paper's and RepDistiller's, positions by channels; mdistiller has another",
        "the teacher's vectors sum to at least 0; in the public codes their sign, and so the loss, is the library's",
        "gradients stay finite where singular values are equal or 0; those of the SVD in the public codes do not",
    )
    OURS = {"matrix": "no number is published under this protocol; of the two public codes' this is the paper's"}
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: mdistiller's weight and number of vectors for CIFAR-100."""

        kdsvd_weight: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the squared difference of relations, summed over pairs of neighbouring stages."""
        num_vectors: int = count(1, search=among(1, 2, 4))
        """Singular vectors of a stage."""
        matrix: Literal["channels", "columns"] = "channels"
        """A map as a matrix: positions by channels, or channels and rows by columns, as mdistiller."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        axis, words = (0, "channels") if self.config.matrix == "channels" else (2, "columns")
        pairs = deepest_pairs(setup.student.shapes, setup.teacher.shapes)
        sizes = [[shape[axis] for shape in shapes] for shapes in zip(*pairs, strict=True)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"KDSVD compares stages with equally many {words}, but {setup.student.name} has {sizes[0]} and "
                f"{setup.teacher.name} {sizes[1]}: choose networks of one family and width"
            )

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = zip(*deepest_pairs(student.stages, teacher.stages), strict=True)
        losses = kdsvd_losses(ours, theirs, self.config.num_vectors, self.config.matrix)
        return {"kdsvd": self.config.kdsvd_weight * losses.sum()}
