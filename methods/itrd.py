"""ITRD: the student's features correlate with the teacher's, channel by channel, and share its similarities of images.

Two terms from information theory. The first brings the correlation of each embedded channel with the teacher's over
the batch near 1; the second lets the student's matrix of similarities hold little that the teacher's does not.

``correlation = log2 of the sum over channels of |c - 1|^(2 alpha)`` for their correlations ``c``

``mutual = |S / tr S|^2 - |(S * T) / tr(S * T)|^2`` for the matrices ``S`` and ``T`` of cosines between images

Follows the authors' code: ``c`` is a mean over ``B`` of products of z-scores whose deviations have ``B - 1``, so it
ends at ``(B - 1) / B``. The first term, a logarithm, becomes negative.

Legend: ``B`` images, ``D`` width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32, inner_products
from kdbench.method import Batch, Outputs, Paper, Reads, Setup, linear, log, positive, weight

from ._task import TaskMethod


def z_scores(features: Tensor) -> Tensor:
    """Z-scores of each channel of ``(B, D)`` over the batch, at least float32; the deviation is that of a sample.

    A channel that is constant up to rounding becomes 0, with a finite gradient.
    """
    features = at_least_float32(features)
    centred = features - features.mean(dim=0)
    variance = centred.square().sum(dim=0) / (len(features) - 1)
    rounding = (8 * torch.finfo(features.dtype).eps) ** 2 * features.detach().square().mean(dim=0)
    varies = variance > rounding
    return torch.where(varies, centred / torch.where(varies, variance, 1).sqrt(), 0)


def correlation_loss(embedded: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """Logarithm to base 2 of the sum over channels of ``|c - 1|^(2 alpha)``, a scalar, from features ``(B, D)``."""
    correlation = (z_scores(embedded) * z_scores(teacher)).mean(dim=0)
    return (correlation - 1).abs().pow(2 * alpha).sum().log2()


def cosines(features: Tensor) -> Tensor:
    """Cosines between images ``(B, B)`` from features ``(B, D)``, at least float32."""
    rows = functional.normalize(at_least_float32(features), dim=1)
    return inner_products(rows, rows)


def power(similarity: Tensor) -> Tensor:
    """Squared Frobenius norm of a matrix ``(B, B)`` over its squared trace; 0 for one without a trace."""
    trace = similarity.diagonal().sum()
    return similarity.square().sum() / trace.clamp_min(1e-6).square()


def mutual_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Power of the student's similarities minus that of both networks', a scalar; ``(B, D)`` and ``(B, D')``."""
    ours = cosines(student)
    return power(ours) - power(ours * cosines(teacher))


class ITRD(TaskMethod):
    """Correlations of channels and similarities of images, of penultimate features."""

    FAMILY = "relations"
    PAPER = Paper(
        "Information Theoretic Representation Distillation",
        "Miles, Lopez Rodriguez, Mikolajczyk", "BMVC", 2022, "2112.00459",
    )  # fmt: skip
    READS = Reads(student={"penultimate"}, teacher={"penultimate"})
    DEVIATIONS = (
        "the defaults are those of the authors' code; their one published command has mutual_weight = 1, alpha = 1.01",
        "correlations are divided by B where deviations have B - 1, as in the authors' code: they end at (B - 1) / B",
        "the second term reads the student's own features where the widths are equal, as in the authors' code",
        "a channel that is constant in a batch has correlation 0; it makes the authors' loss NaN",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: those of the authors' code."""

        correlation_weight: float = weight(2.0, search=log(0.2, 20.0))
        """Weight of the correlation of channels."""
        mutual_weight: float = weight(0.05, search=log(0.01, 10.0))
        """Weight of the similarities of images."""
        alpha: float = positive(1.5, search=linear(1.0, 2.0))
        """Half the power of a channel's distance from correlation 1."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        width, out = setup.student.width, setup.teacher.width
        self.embed = nn.Linear(width, out)
        self.same_width = width == out
        self.min_images = 2

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config, embedded = self.config, self.embed(student.penultimate)
        ours = student.penultimate if self.same_width else embedded
        correlation = correlation_loss(embedded, teacher.penultimate, config.alpha)
        return {
            "correlation": config.correlation_weight * correlation,
            "mutual": config.mutual_weight * mutual_loss(ours, teacher.penultimate),
        }
