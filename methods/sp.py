"""SP: similarity-preserving knowledge distillation.

Tung, Mori; ICCV 2019; arXiv 1907.09682.
Images that activate the teacher alike shall activate the student alike: the batch's matrices of inner products of
the last stage's maps are compared. The paper sums over pairs of layers; in the code of the published numbers
(RepDistiller) there is one pair, the last stages.

``G = F F^T`` with rows ``F_b = flatten(map_b)``, ``loss = |G_s / |G_s|_row - G_t / |G_t|_row|_F^2 / B^2``

The loss is a mean over pairs of images, of rows of unit length: it falls as the batch grows. Its weight belongs to
batches of 64.

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor
from torch.nn import functional

from kdbench.method import Batch, Setup
from kdbench.net import Outputs, Part

from ._maps import num_matched
from ._task import TaskMethod
from .ce import check_settings, inner_products


def similarities(maps: Tensor) -> Tensor:
    """Inner products ``(B, B)`` of the maps ``(B, C, H, W)`` of a batch's images, each row of unit length."""
    rows = maps.flatten(1)
    return functional.normalize(inner_products(rows, rows), dim=1)


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the similarities of maps ``(B, C, H, W)``, over the ``B * B`` pairs of images.

    Channels and sizes of the two networks may differ.
    """
    return functional.mse_loss(similarities(student), similarities(teacher))


@final
class SP(TaskMethod):
    """Similarities among a batch's images at the last stage. One image alone has nothing to compare: its loss is 0."""

    FAMILY = "relations"
    student_reads: ClassVar[frozenset[Part]] = frozenset({"logits", "stages"})
    teacher_reads: ClassVar[frozenset[Part]] = frozenset({"logits", "stages"})
    DEVIATIONS = ("the last stage alone, as in the public code; the paper sums over pairs of layers",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(TaskMethod.Config):
        """Defaults: RepDistiller's setting for all CIFAR-100 pairs."""

        sp_weight: float = 3000.0
        """Weight of the mean squared difference of similarities, for batches of 64."""

        def __post_init__(self) -> None:
            TaskMethod.Config.__post_init__(self)
            check_settings(self, non_negative=("sp_weight",))

    config: Config

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        num_matched("SP", setup)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the weighted loss of similarities."""
        return {"sp": self.config.sp_weight * sp_loss(student.stages[-1], teacher.stages[-1])}


METHOD = SP
