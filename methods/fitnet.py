"""FitNet: a middle stage of the student predicts the teacher's map at the same stage through a regressor.

The paper trains student and regressor on this hint alone before it distils (``init_fraction``). By default, as in
RepDistiller and mdistiller, whose numbers the tables print, the hint stands beside the cross entropy from the first
step on. The regressor has a batch norm and a ReLU, as there.

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, to_smaller_size
from kdbench.method import Batch, Paper, PhaseName, Pretraining, Reads, Setup, count, log, non_negative, weight
from kdbench.net import Net, Outputs

from ._connectors import SizingConnector
from ._task import TaskMethod, task_reads


def hint_loss(regressed: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of maps ``(B, C, H, W)`` over all elements; of two sizes the smaller one is taken."""
    return functional.mse_loss(*to_smaller_size(at_least_float32(regressed), at_least_float32(teacher)))


class FitNet(TaskMethod):
    """Mean squared error between a regressed student stage and the same stage of the teacher."""

    FAMILY = "features"
    PAPER = Paper(
        "FitNets: Hints for Thin Deep Nets", "Romero, Ballas, Kahou, Chassang, Gatta, Bengio", "ICLR", 2015, "1412.6550"
    )
    READS = Reads(student={"stages"}, teacher={"stages"})
    DEVIATIONS = (
        "hint and cross entropy are trained together, as in RepDistiller and mdistiller; the paper has the hint first, "
        "which is init_fraction > 0, and distils the logits then: kd_weight",
        "a student map that is smaller by another factor than 2 keeps its size and the teacher's is pooled to it, as "
        "in the SimKD repository; RepDistiller refuses such pairs",
        "the teacher is as it was trained; mdistiller, to find shapes, runs it once over noise in training mode, which "
        "moves its running statistics",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: RepDistiller's and mdistiller's for all CIFAR-100 pairs."""

        hint_weight: float = weight(100.0, search=log(10.0, 1000.0))
        """Weight of the mean squared error."""
        hint_stage: int = count(2)
        """Stage that gives the hint in both networks, counted from 1 without the stem: RepDistiller's hint layer."""
        init_fraction: float = non_negative(0.0, later=True)
        """Length of a pre-training on the hint alone over that of the protocol; above 0 there is no hint afterwards."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        stage = self.config.hint_stage
        for net in (setup.student, setup.teacher):
            if len(net.shapes) < stage:
                raise ValueError(
                    f"FitNet compares stage {stage} of both networks, but {net.name} has {len(net.shapes)}: set "
                    "hint_stage to one that both have, or choose another network"
                )
        self.regressor = SizingConnector(setup.student.shapes[stage - 1], setup.teacher.shapes[stage - 1])
        self.min_images = self.regressor.min_images

    @classmethod
    def reads(cls, config: Config, phase: PhaseName) -> Reads:
        """Return what the task reads after pre-training, and the stages where the hint is trained."""
        if phase == "pretraining":
            return cls.READS
        return task_reads(config) if config.init_fraction else cls.READS | task_reads(config)

    @classmethod
    def pretraining(cls, config: Config) -> float:
        return config.init_fraction

    def pretrain(self, student: Net) -> Pretraining:
        """Train the regressor, and the student up to the stage of the hint, which is as far as the loss reaches."""
        return Pretraining(loss=self.hint, train=(self.regressor, student), freeze=(self.regressor,))

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {} if self.config.init_fraction else self.hint(student, teacher, batch)

    def hint(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted hint."""
        at = self.config.hint_stage - 1
        regressed = torch.relu(self.regressor(student.stages[at]))
        return {"hint": self.config.hint_weight * hint_loss(regressed, teacher.stages[at])}
