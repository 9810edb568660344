"""CC: the correlations among a batch's images follow the teacher's.

In the paper these are kernel values between the images' features (``form = "kernel"``). The published numbers of CC
come from RepDistiller, whose loss, the default here (``form = "neighbours"``), is another one: the distance between
the two networks' embeddings of an image, times that of the next image in the batch.

``neighbours``: ``d_i = |E_s f^s_i - E_t f^t_i|`` entrywise, ``loss = mean over i < B of d_i d_(i+1)``;
``kernel``: ``K_ij = exp(-2 g) sum over p <= 2 of (2 g x_i x_j)^p / p!`` with ``x = f / |f|``, the Gaussian kernel
``exp(-g |x_i - x_j|^2)`` to second order, ``loss = mean over i, j of (K^s_ij - K^t_ij)^2``

Legend: ``B`` images; ``D`` width of the penultimate features; ``E`` linear embeddings, both trained.
"""

import math
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32, inner_products
from kdbench.method import Batch, Outputs, Paper, Reads, Setup, count, log, positive, weight

from ._task import TaskMethod


def neighbour_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Inner product of the absolute differences of neighbours, mean over the ``B - 1`` neighbours in the batch.

    From embeddings ``(B, D)`` of both networks. It depends on the batch's order; one image alone has a loss of 0.
    """
    delta = (at_least_float32(student) - at_least_float32(teacher)).abs()
    return (delta[:-1] * delta[1:]).sum() / max(len(delta) - 1, 1)


def correlations(features: Tensor, gamma: float) -> Tensor:
    """Gaussian kernel between the images of a batch, to second order, ``(B, B)``, from features ``(B, D)``."""
    rows = functional.normalize(at_least_float32(features), dim=1)
    exponent = 2 * gamma * inner_products(rows, rows)
    return math.exp(-2 * gamma) * (1 + exponent + exponent**2 / 2)


def kernel_loss(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    """Mean squared difference of correlations over the ``B * B`` pairs of images; features ``(B, D)``."""
    return functional.mse_loss(correlations(student, gamma), correlations(teacher, gamma))


class CC(TaskMethod):
    """Correlation congruence of the penultimate features, in the code's form or the paper's."""

    FAMILY = "relations"
    PAPER = Paper(
        "Correlation Congruence for Knowledge Distillation",
        "Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang", "ICCV", 2019, "1904.01802",
    )  # fmt: skip
    READS = Reads(student={"penultimate"}, teacher={"penultimate"})
    DEVIATIONS = (
        "neighbouring images' differences between the networks, as the code of the published numbers, not a kernel",
        "that loss depends on the order of the batch, and pulls the two trained embeddings together, image by image",
        "a batch of one image has a loss of 0; that code's is NaN",
    )
    OURS = {"gamma": "read by form = 'kernel' alone, which the code of the published numbers does not have"}
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: RepDistiller's setting for all CIFAR-100 pairs."""

        cc_weight: float = weight(0.02, search=log(0.002, 0.2))
        """Weight of the loss; this one belongs to the form "neighbours", the kernel's values are far smaller."""
        form: Literal["neighbours", "kernel"] = "neighbours"
        """What is compared: neighbours as in RepDistiller, or the paper's kernel."""
        feat_dim: int = count(128)
        """Width of the embeddings, which the form "neighbours" has."""
        gamma: float = positive(0.4)
        """Inverse width of the kernel, for features of unit length."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        if self.config.form == "neighbours":
            self.student_embed = nn.Linear(setup.student.width, self.config.feat_dim)
            self.teacher_embed = nn.Linear(setup.teacher.width, self.config.feat_dim)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config, sides = self.config, (student.penultimate, teacher.penultimate)
        if config.form == "kernel":
            return {"cc": config.cc_weight * kernel_loss(*sides, config.gamma)}
        return {"cc": config.cc_weight * neighbour_loss(self.student_embed(sides[0]), self.teacher_embed(sides[1]))}
