"""ICKD: inter-channel correlation for knowledge distillation.

Liu, Huang, Lin, Xie, Wang, Chang, Liang; Exploring Inter-Channel Correlation for Diversity-preserved Knowledge
Distillation; ICCV 2021; arXiv 2202.03680.
The student's last map, brought to the teacher's channels, should have the teacher's inner products between
channels: how alike and how diverse what they respond to is. This is ICKD-C, the version for classification, after
the authors' CIFAR-100 code. That code also builds an embedding of the teacher in some versions, which it never
uses; there is none here.

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor
from torch.nn import functional

from kdbench.method import Batch, Setup
from kdbench.net import Outputs, Part

from ._connectors import check_norm_input, conv_norm
from ._maps import num_matched
from ._task import TaskMethod
from .ce import check_settings, inner_products


def channel_correlation(maps: Tensor) -> Tensor:
    """Inner products between the channels of each image, rows normalised: ``(B, C, C)`` from ``(B, C, H, W)``."""
    channels = maps.flatten(2)
    return functional.normalize(inner_products(channels, channels), dim=2)


def ickd_loss(embedded: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the channel correlations, summed over a row and averaged over rows and images.

    Maps are ``(B, C, H, W)`` of the same ``B`` and ``C``; their sizes need not agree.
    """
    difference = channel_correlation(embedded) - channel_correlation(teacher)
    return difference.square().sum(dim=2).mean()


@final
class ICKD(TaskMethod):
    """Correlations between channels of the last stage.

    A training batch of one image raises ValueError where that stage has a single pixel.
    """

    FAMILY = "features"
    student_reads: ClassVar[frozenset[Part]] = frozenset({"logits", "stages"})
    teacher_reads: ClassVar[frozenset[Part]] = frozenset({"logits", "stages"})
    DEVIATIONS = ("the paper's tables also have ICKD-C with KD's divergence beside it: kd_weight = 1",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(TaskMethod.Config):
        """Defaults: the authors' for CIFAR-100, without KD's divergence."""

        ickd_weight: float = 2.5
        """Weight of the squared difference of correlations."""

        def __post_init__(self) -> None:
            TaskMethod.Config.__post_init__(self)
            check_settings(self, non_negative=("ickd_weight",))

    config: Config

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        num_matched("ICKD", setup)
        self.embed = conv_norm(setup.student.shapes[-1][0], setup.teacher.shapes[-1][0])

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the weighted difference of correlations."""
        check_norm_input(student.stages[-1], "ICKD", training=self.training)
        return {"ickd": self.config.ickd_weight * ickd_loss(self.embed(student.stages[-1]), teacher.stages[-1])}


METHOD = ICKD
