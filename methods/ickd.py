"""ICKD: the student's last map, brought to the teacher's channels, has its inner products between channels.

They say how alike and how diverse what the channels respond to is. This is ICKD-C, the version for classification,
after the authors' CIFAR-100 code. That code also builds an embedding of the teacher in some versions, which it never
uses; there is none here.

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

from torch import Tensor
from torch.nn import functional

from kdbench.functional import inner_products
from kdbench.method import Batch, Outputs, Paper, Reads, Setup, log, weight

from ._connectors import conv_norm, images_for_norm
from ._task import TaskMethod


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


class ICKD(TaskMethod):
    """Correlations between channels of the last stage."""

    FAMILY = "features"
    PAPER = Paper(
        "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation",
        "Liu, Huang, Lin, Xie, Wang, Chang, Liang", "ICCV", 2021, "2202.03680",
    )  # fmt: skip
    MIN_STAGES = 1
    READS = Reads(student={"stages"}, teacher={"stages"})
    DEVIATIONS = ("the paper's tables also have ICKD-C with KD's divergence beside it: kd_weight = 1",)
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: the authors' for CIFAR-100, without KD's divergence."""

        ickd_weight: float = weight(2.5, search=log(0.25, 25.0))
        """Weight of the squared difference of correlations."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self.embed = conv_norm(setup.student.shapes[-1][0], setup.teacher.shapes[-1][0])
        self.min_images = images_for_norm(setup.student.shapes[-1])

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"ickd": self.config.ickd_weight * ickd_loss(self.embed(student.stages[-1]), teacher.stages[-1])}
