"""SP: images that activate the teacher alike shall activate the student alike.

The batch's matrices of inner products of the last stage's maps are compared. The paper sums over pairs of layers; in
the code of the published numbers (RepDistiller) there is one pair, the last stages.

``G = F F^T`` with rows ``F_b = flatten(map_b)``, ``loss = |G_s / |G_s|_row - G_t / |G_t|_row|_F^2 / B^2``

The loss is a mean over pairs of images, of rows of unit length: it falls as the batch grows. Its weight belongs to
batches of 64.

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

from torch import Tensor
from torch.nn import functional

from kdbench.functional import inner_products
from kdbench.method import Batch, Outputs, Paper, Reads, log, weight

from ._task import TaskMethod


def similarities(maps: Tensor) -> Tensor:
    """Inner products ``(B, B)`` of the maps ``(B, C, H, W)`` of a batch's images, each row of unit length."""
    rows = maps.flatten(1)
    return functional.normalize(inner_products(rows, rows), dim=1)


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the similarities of maps ``(B, C, H, W)``, over the ``B * B`` pairs of images.

    Channels and sizes of the two networks may differ.
    """
    return functional.mse_loss(similarities(student), similarities(teacher))


class SP(TaskMethod):
    """Similarities among a batch's images at the last stage. One image alone has nothing to compare: its loss is 0."""

    FAMILY = "relations"
    PAPER = Paper("Similarity-Preserving Knowledge Distillation", "Tung, Mori", "ICCV", 2019, "1907.09682")
    MIN_STAGES = 1
    READS = Reads(student={"stages"}, teacher={"stages"})
    DEVIATIONS = ("the last stage alone, as in the public code; the paper sums over pairs of layers",)
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: RepDistiller's setting for all CIFAR-100 pairs."""

        sp_weight: float = weight(3000.0, search=log(300.0, 30000.0))
        """Weight of the mean squared difference of similarities, for batches of 64."""

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"sp": self.config.sp_weight * sp_loss(student.stages[-1], teacher.stages[-1])}
