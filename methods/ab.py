"""AB: before it learns its task, the student learns which of the teacher's neurons are active.

Through a connector its maps before the ReLU come to lie on the same side of 0 as the teacher's, at least a margin
away. Then it is trained as usual. Follows RepDistiller, whose numbers the tables print.

``loss = sum over stages of 2^(i - n) * |relu(margin - sign(t) * s)|^2``, stage i of n, summed over an image

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

import torch
from torch import Tensor, nn

from kdbench.functional import at_least_float32, to_smaller_size
from kdbench.method import Batch, Net, Outputs, Paper, Pretraining, Reads, Setup, log, non_negative, weight

from ._connectors import SizingConnector
from ._task import PretrainedMethod


def boundary_loss(connected: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Squared distance of maps ``(B, C, H, W)`` to the teacher's side of 0, at least ``margin`` away from it.

    Where the teacher is positive the student has to be above the margin, elsewhere below its negative; summed over an
    image, averaged over images. Of two sizes the smaller one is taken.
    """
    connected, teacher = to_smaller_size(at_least_float32(connected), at_least_float32(teacher))
    missing = margin - torch.where(teacher > 0, connected, -connected)
    return missing.relu().square().sum() / connected.shape[0]


class AB(PretrainedMethod):
    """Pre-training on the teacher's activation boundaries, then cross entropy alone, or with ``kd_weight`` KD.

    A student without maps before the last ReLU is read at its stages.
    """

    FAMILY = "features"
    PAPER = Paper(
        "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        "Heo, Lee, Yun, Choi", "AAAI", 2019, "1811.03233",
    )  # fmt: skip
    READS = Reads(student={"stages", "preact"}, teacher={"preact"})
    DEVIATIONS = (
        "after pre-training there is no term of the method, as in RepDistiller, where -b changes nothing",
        "MobileNetV2 is read at its stages, as in RepDistiller: they end in a convolution and a batch norm",
        "a student map that is smaller by another factor than 2 keeps its size and the teacher's is pooled to it; "
        "RepDistiller refuses such pairs",
    )
    config: "Config"

    class Config(PretrainedMethod.Config):
        """Defaults: RepDistiller's for all CIFAR-100 pairs."""

        ab_weight: float = weight(3e-3, search=log(3e-4, 3e-2))
        """Weight of the loss, summed over stages; the deepest counts 1, the one before 1/2 and so on."""
        margin: float = non_negative(1.0, search=log(0.3, 3.0))
        """Distance from 0 up to which the student is pushed to the teacher's side."""

    def __init__(self, config: Config, setup: Setup) -> None:
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
        self.student_preact = student.has_preact
        self.connectors = nn.ModuleList(
            nn.Identity() if ours == theirs else SizingConnector(ours, theirs)
            for ours, theirs in zip(student.shapes, teacher.shapes, strict=True)
        )
        self.min_images = max(getattr(connector, "min_images", 1) for connector in self.connectors)

    def pretrain(self, student: Net) -> Pretraining:
        """Return the training of the student below its classifier, and of connectors that are of no use afterwards."""
        return Pretraining(loss=self.pretraining_loss, train=(self.connectors, student), freeze=(self.connectors,))

    def boundary_losses(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Return each stage's weighted loss, shallow to deep."""
        ours = student.preact if self.student_preact else student.stages
        losses = []
        for number, (connector, maps, theirs) in enumerate(zip(self.connectors, ours, teacher.preact, strict=True)):
            halvings = len(self.connectors) - 1 - number
            losses.append(boundary_loss(connector(maps), theirs, self.config.margin) / 2**halvings)
        return self.config.ab_weight * torch.stack(losses)

    def pretraining_loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"ab": self.boundary_losses(student, teacher).sum()}
