"""AB: knowledge transfer via distillation of activation boundaries formed by hidden neurons.

Heo, Lee, Yun, Choi; AAAI 2019; arXiv 1811.03233.
Before it learns its task, the student learns which of the teacher's neurons are active: through a connector its maps
before the ReLU come to lie on the same side of 0 as the teacher's, at least a margin away. Then it is trained as
usual. Follows RepDistiller, whose numbers the tables print.

``loss = sum over stages of 2^(i - n) * |relu(margin - sign(t) * s)|^2``, stage i of n, summed over an image

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from kdbench.method import Batch, Pretraining, Setup
from kdbench.net import Net, Outputs, Part

from ._connectors import SizingConnector
from ._maps import to_smaller_size
from ._task import PretrainedMethod
from .ce import at_least_float32, check_settings


def boundary_loss(connected: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Squared distance of maps ``(B, C, H, W)`` to the teacher's side of 0, at least ``margin`` away from it.

    Where the teacher is positive the student has to be above the margin, elsewhere below its negative; summed over an
    image, averaged over images. Of two sizes the smaller one is taken.
    """
    connected, teacher = to_smaller_size(at_least_float32(connected), at_least_float32(teacher))
    missing = margin - torch.where(teacher > 0, connected, -connected)
    return missing.relu().square().sum() / connected.shape[0]


@final
class AB(PretrainedMethod):
    """Pre-training on the teacher's activation boundaries, then cross entropy alone, or with ``kd_weight`` KD.

    A student without maps before the last ReLU is read at its stages. A batch of one image raises ValueError where a
    connected stage has a single pixel.
    """

    FAMILY = "features"
    student_reads: ClassVar[frozenset[Part]] = frozenset({"logits"})
    teacher_reads: ClassVar[frozenset[Part]] = frozenset({"logits", "preact"})
    DEVIATIONS = (
        "after pre-training there is no term of the method, as in RepDistiller, where -b changes nothing",
        "MobileNetV2 is read at its stages, as in RepDistiller: they end in a convolution and a batch norm",
        "a student map that is smaller by another factor than 2 keeps its size and the teacher's is pooled to it; "
        "RepDistiller refuses such pairs",
    )

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(PretrainedMethod.Config):
        """Defaults: RepDistiller's for all CIFAR-100 pairs."""

        ab_weight: float = 3e-3
        """Weight of the loss, summed over stages; the deepest counts 1, the one before 1/2 and so on."""
        margin: float = 1.0
        """Distance from 0 up to which the student is pushed to the teacher's side."""

        def __post_init__(self) -> None:
            PretrainedMethod.Config.__post_init__(self)
            check_settings(self, non_negative=("ab_weight", "margin"))

    config: Config

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        student, teacher = setup.student, setup.teacher
        if not teacher.has_preact:
            raise ValueError(
                f"AB reads the maps before the last ReLU of each stage, and {teacher.name} shows none: choose a "
                "teacher that has them, e.g. a resnet, wrn or vgg"
            )
        if len(student.shapes) != len(teacher.shapes):
            raise ValueError(
                f"AB needs networks of equally many stages, but {student.name} has {len(student.shapes)} and "
                f"{teacher.name} {len(teacher.shapes)}: choose another network"
            )
        self.student_part: Part = "preact" if student.has_preact else "stages"
        self.connectors = nn.ModuleList(
            nn.Identity() if ours == theirs else SizingConnector(ours, theirs, "AB")
            for ours, theirs in zip(student.shapes, teacher.shapes, strict=True)
        )

    def pretrain(self, student: Net) -> Pretraining:
        """Return the training of the student below its classifier, and of connectors that are of no use afterwards."""
        return Pretraining(
            loss=self.pretraining_loss,
            train=(self.connectors, student),
            freeze=(self.connectors,),
            student_reads=frozenset({self.student_part}),
        )

    def boundary_losses(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Return each stage's weighted loss, shallow to deep."""
        ours = student.preact if self.student_part == "preact" else student.stages
        losses = []
        for number, (connector, maps, theirs) in enumerate(zip(self.connectors, ours, teacher.preact, strict=True)):
            halvings = len(self.connectors) - 1 - number
            losses.append(boundary_loss(connector(maps), theirs, self.config.margin) / 2**halvings)
        return self.config.ab_weight * torch.stack(losses)

    def pretraining_loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the weighted loss of all stages."""
        return {"ab": self.boundary_losses(student, teacher).sum()}


METHOD = AB
