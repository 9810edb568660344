"""NST: the student's distribution of where its channels look follows the teacher's.

The channels of a stage are samples; the distributions differ by the squared maximum mean discrepancy (MMD) with the
polynomial kernel ``k(a, b) = (a b)^2``.

``a = channel over positions, of unit length``,
``loss = sum over stages of mean k(a_t, a_t) + mean k(a_s, a_s) - 2 mean k(a_s, a_t)``

Follows the code of the published numbers (RepDistiller): every stage is matched, and the loss has a factor of 1 where
the paper has one half.

Legend: ``B`` images; maps ``(B, C, H, W)``, of two sizes the larger average-pooled to the smaller;
``P = H * W`` positions.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, deepest_pairs, inner_products, to_smaller_size
from kdbench.method import Batch, Outputs, Paper, Reads, log, weight

from ._task import TaskMethod


def mean_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Mean of ``k(a, b) = (a b)^2`` over images and pairs of channels, rows of ``(B, C, P)`` and ``(B, C', P)``.

    ``sum (A B^T)^2 = sum (A^T A) * (B^T B)``: taken from whichever products are fewer, of channels or of positions.
    """
    num_pairs, positions = first.shape[1] * second.shape[1], first.shape[2]
    if num_pairs <= positions**2:
        return inner_products(first, second).square().mean()
    grams = [inner_products(channels.mT, channels.mT) for channels in (first, second)]
    return (grams[0] * grams[1]).sum(dim=(1, 2)).mean() / num_pairs


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared MMD of the channels of maps ``(B, C, H, W)`` of one stage, mean over images; channels may differ."""
    maps = to_smaller_size(at_least_float32(student), at_least_float32(teacher))
    ours, theirs = (functional.normalize(each.flatten(2), dim=2) for each in maps)
    return mean_kernel(theirs, theirs) + mean_kernel(ours, ours) - 2 * mean_kernel(ours, theirs)


class NST(TaskMethod):
    """MMD of channels at every stage; of networks with different numbers of stages, the deepest are matched."""

    FAMILY = "features"
    PAPER = Paper(
        "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", "Huang, Wang", "", 2017, "1707.01219"
    )
    MIN_STAGES = 1
    READS = Reads(student={"stages"}, teacher={"stages"})
    DEVIATIONS = (
        "the loss is not halved, as in the public code; the paper has half of its weight",
        "the kernel is the polynomial one, the only one of the public code; the paper also tries linear and Gaussian",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: RepDistiller's setting for all CIFAR-100 pairs."""

        nst_weight: float = weight(50.0, search=log(5.0, 500.0))
        """Weight of the squared MMD, summed over stages."""

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = [nst_loss(*pair) for pair in deepest_pairs(student.stages, teacher.stages)]
        return {"nst": self.config.nst_weight * torch.stack(losses).sum()}
