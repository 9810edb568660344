"""FSP: before it learns its task, the student learns the teacher's matrices between neighbouring maps.

The flow of solution procedure between two layers, stem and stages, is the matrix of inner products of their channels.
Then the student is trained as usual. Follows RepDistiller, whose numbers the tables print.

``G = F_i+1 F_i^T / (H * W)`` for maps ``F`` as matrices of channels by positions, ``loss = sum_i mean((G_s - G_t)^2)``

Legend: ``B`` images; maps ``(B, C, H, W)``, of two sizes the larger average-pooled to the smaller.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, inner_products, to_smaller_size
from kdbench.method import Batch, Net, Outputs, Paper, Pretraining, Reads, Setup, log, positive

from ._task import PretrainedMethod


def flow(bottom: Tensor, top: Tensor) -> Tensor:
    """Products of all channels of two maps of one network, mean over positions, ``(B, C_top, C_bottom)``."""
    bottom, top = to_smaller_size(at_least_float32(bottom), at_least_float32(top))
    return inner_products(top.flatten(2), bottom.flatten(2)) / (top.shape[2] * top.shape[3])


def fsp_losses(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of two networks' flows; one entry for each pair of neighbouring maps."""
    pairs = zip(itertools.pairwise(student), itertools.pairwise(teacher), strict=True)
    return torch.stack([functional.mse_loss(flow(*ours), flow(*theirs)) for ours, theirs in pairs])


class FSP(PretrainedMethod):
    """Pre-training on the teacher's flows between maps, then cross entropy alone, or with ``kd_weight`` KD.

    The networks need equally many channels at each map. Where one of them shows no stem, the stages alone are used.
    """

    FAMILY = "features"
    PAPER = Paper(
        "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning",
        "Yim, Joo, Bae, Kim", "CVPR", 2017,
    )  # fmt: skip
    READS = Reads(student={"stem", "stages"}, teacher={"stem", "stages"})
    DEVIATIONS = (
        "after pre-training there is no term of the method, as in RepDistiller, where -b changes nothing",
        "networks that show no stem, those of timm, are compared between stages alone",
    )
    config: "Config"

    class Config(PretrainedMethod.Config):
        """Defaults: RepDistiller's for the CIFAR-100 pairs with equally many channels."""

        init_fraction: float = positive(30 / 240, search=log(0.03, 0.3))
        """Length of pre-training over that of the protocol."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        nets = setup.student, setup.teacher
        self.has_stems = all(net.stem_shape for net in nets)
        shapes = [(net.stem_shape if self.has_stems else None, *net.shapes) for net in nets]
        channels = [[shape[0] for shape in maps if shape] for maps in shapes]
        if channels[0] != channels[1]:
            raise ValueError(
                f"FSP compares maps with equally many channels, but {nets[0].name} has {channels[0]} and "
                f"{nets[1].name} {channels[1]}: choose networks of one family and width"
            )
        if len(channels[0]) < 2:
            raise ValueError(f"FSP relates neighbouring maps; {nets[0].name} has fewer than 2: choose another network")

    def pretrain(self, student: Net) -> Pretraining:
        """Return the training of the student below its classifier."""
        return Pretraining(loss=self.pretraining_loss, train=(student,))

    def pretraining_loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        ours, theirs = ((out.stem, *out.stages) if self.has_stems else out.stages for out in (student, teacher))
        return {"fsp": fsp_losses(ours, theirs).sum()}
