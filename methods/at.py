"""AT: the student's attention maps follow the teacher's.

Attention is the mean over channels of a power of a stage's activations. Where the paper has a norm of the difference,
the code of the published numbers (RepDistiller) has the mean square.

``A = flatten(mean_c |F_c|^p)``, ``loss = sum over stages of mean((A_s / |A_s| - A_t / |A_t|)^2)``

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, deepest_pairs, to_smaller_size
from kdbench.method import Batch, Outputs, Paper, Reads, among, count, log, weight

from ._task import TaskMethod


def attention(maps: Tensor, power: int) -> Tensor:
    """Attention of maps ``(B, C, H, W)``: the channels' mean power at each position, unit vectors ``(B, H * W)``."""
    return functional.normalize(at_least_float32(maps).abs().pow(power).mean(dim=1).flatten(1), dim=1)


def at_loss(student: Tensor, teacher: Tensor, power: int = 2) -> Tensor:
    """Mean squared difference of two attentions over images and positions, from maps ``(B, C, H, W)`` of one stage.

    The numbers of channels may differ; of two sizes the larger is average-pooled to the smaller.
    """
    student, teacher = to_smaller_size(at_least_float32(student), at_least_float32(teacher))
    return functional.mse_loss(attention(student, power), attention(teacher, power))


class AT(TaskMethod):
    """Attention transfer at every stage; of networks with different numbers of stages, the deepest are matched."""

    FAMILY = "features"
    PAPER = Paper(
        "Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via Attention "
        "Transfer",
        "Zagoruyko, Komodakis", "ICLR", 2017, "1612.03928",
    )  # fmt: skip
    MIN_STAGES = 1
    READS = Reads(student={"stages"}, teacher={"stages"})
    DEVIATIONS = (
        "the loss is a mean over positions, as in the public code; the paper's formula is a norm, a sum over positions",
        "an odd power is taken of the magnitude, as in the paper; the public code keeps the sign (ReLU maps have none)",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: RepDistiller's setting for all CIFAR-100 pairs."""

        at_weight: float = weight(1000.0, search=log(100.0, 10000.0))
        """Weight of the mean squared difference of attentions, summed over stages."""
        power: int = count(2, search=among(1, 2, 4))
        """Power of the activations whose mean over channels is the attention."""

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = [at_loss(*pair, self.config.power) for pair in deepest_pairs(student.stages, teacher.stages)]
        return {"at": self.config.at_weight * torch.stack(losses).sum()}
