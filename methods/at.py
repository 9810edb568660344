"""AT: paying more attention to attention.

Zagoruyko, Komodakis; ICLR 2017; arXiv 1612.03928.
The student's attention maps, the mean over channels of a power of each stage's activations, follow the teacher's.
Where the paper has a norm of the difference, the code of the published numbers (RepDistiller) has the mean square.

``A = flatten(mean_c |F_c|^p)``, ``loss = sum over stages of mean((A_s / |A_s| - A_t / |A_t|)^2)``

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.method import Batch, Setup
from kdbench.net import Outputs, Part

from ._maps import matched, num_matched, to_smaller_size
from ._task import TaskMethod
from .ce import at_least_float32, check_settings


def attention(maps: Tensor, power: int) -> Tensor:
    """Attention of maps ``(B, C, H, W)``: the channels' mean power at each position, unit vectors ``(B, H * W)``."""
    return functional.normalize(at_least_float32(maps).abs().pow(power).mean(dim=1).flatten(1), dim=1)


def at_loss(student: Tensor, teacher: Tensor, power: int = 2) -> Tensor:
    """Mean squared difference of two attentions over images and positions, from maps ``(B, C, H, W)`` of one stage.

    The numbers of channels may differ; of two sizes the larger is average-pooled to the smaller.
    """
    student, teacher = to_smaller_size(at_least_float32(student), at_least_float32(teacher))
    return functional.mse_loss(attention(student, power), attention(teacher, power))


@final
class AT(TaskMethod):
    """Attention transfer at every stage; of networks with different numbers of stages, the deepest are matched."""

    FAMILY = "features"
    student_reads: ClassVar[frozenset[Part]] = frozenset({"logits", "stages"})
    teacher_reads: ClassVar[frozenset[Part]] = frozenset({"logits", "stages"})
    DEVIATIONS = (
        "the loss is a mean over positions, as in the public code; the paper's formula is a norm, a sum over positions",
        "an odd power is taken of the magnitude, as in the paper; the public code keeps the sign (ReLU maps have none)",
    )

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(TaskMethod.Config):
        """Defaults: RepDistiller's setting for all CIFAR-100 pairs."""

        at_weight: float = 1000.0
        """Weight of the mean squared difference of attentions, summed over stages."""
        power: int = 2
        """Power of the activations whose mean over channels is the attention."""

        def __post_init__(self) -> None:
            TaskMethod.Config.__post_init__(self)
            check_settings(self, non_negative=("at_weight",), positive=("power",))

    config: Config

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        self.num_stages = num_matched("AT", setup)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the weighted attention loss."""
        config = self.config
        pairs = matched(student, teacher, self.num_stages)
        losses = [at_loss(ours, theirs, config.power) for ours, theirs in pairs]
        return {"at": config.at_weight * torch.stack(losses).sum()}


METHOD = AT
