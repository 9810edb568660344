"""VID: the student's maps carry information about the teacher's.

A small network predicts each teacher map as the mean of a Gaussian with one variance a channel, and the loss is its
negative log likelihood, up to a constant. As in RepDistiller the variances are trained with the rest; mdistiller's are
constants, because it keeps them outside of its modules.

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32, deepest_pairs, to_smaller_size
from kdbench.method import Batch, Outputs, Paper, Reads, Setup, log, non_negative, positive, weight

from ._task import TaskMethod


def vid_loss(mean: Tensor, log_scale: Tensor, teacher: Tensor, epsilon: float) -> Tensor:
    """Negative log likelihood of a teacher map, up to a constant, in nats; mean over all elements.

    ``0.5 * ((mean - teacher)**2 / variance + log(variance))`` with ``variance = log(1 + exp(log_scale)) + epsilon``
    for each channel; maps are ``(B, C, H, W)``, ``log_scale`` is ``(C,)``.
    """
    variance = (functional.softplus(at_least_float32(log_scale)) + epsilon)[:, None, None]
    error = at_least_float32(mean) - at_least_float32(teacher)
    return 0.5 * (error.square() / variance + variance.log()).mean()


def predictor(in_channels: int, out_channels: int) -> nn.Sequential:
    """Three pointwise convolutions without bias, with ReLUs between them, as wide as the teacher's map."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 1, bias=False)]
    for _ in range(2):
        layers += [nn.ReLU(), nn.Conv2d(out_channels, out_channels, 1, bias=False)]
    return nn.Sequential(*layers)


class VID(TaskMethod):
    """Gaussian log likelihood of the teacher's stages given the student's, summed over stages.

    Where the networks have different numbers of stages, the deepest ones are matched. Of two sizes the smaller one
    is taken.
    """

    FAMILY = "features"
    PAPER = Paper(
        "Variational Information Distillation for Knowledge Transfer",
        "Ahn, Hu, Damianou, Lawrence, Dai", "CVPR", 2019, "1904.05835",
    )  # fmt: skip
    MIN_STAGES = 1
    READS = Reads(student={"stages"}, teacher={"stages"})
    DEVIATIONS = (
        "the variances are trained, as in RepDistiller; in mdistiller they keep their start (learn_scales = false)",
        "the deepest stages are matched where numbers differ; RepDistiller pairs the shallowest ones",
        "the teacher is as it was trained; mdistiller, to find shapes, runs it once over noise in training mode, which "
        "moves its running statistics",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: RepDistiller's for all CIFAR-100 pairs."""

        vid_weight: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the negative log likelihood, summed over stages."""
        initial_variance: float = positive(5.0, search=log(0.5, 50.0))
        """Variance that each channel starts from; larger than epsilon."""
        epsilon: float = non_negative(1e-5)
        """Smallest variance."""
        learn_scales: bool = True
        """Train the variances; false leaves them where they start."""

        def check(self) -> None:
            if self.initial_variance <= self.epsilon:
                raise ValueError(f"initial_variance must be above epsilon {self.epsilon}, not {self.initial_variance}")

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        shapes = deepest_pairs(setup.student.shapes, setup.teacher.shapes)
        self.regressors = nn.ModuleList(predictor(ours[0], theirs[0]) for ours, theirs in shapes)
        start = math.log(math.expm1(config.initial_variance - config.epsilon))
        self.log_scales = nn.ParameterList(
            nn.Parameter(torch.full(theirs[:1], start), requires_grad=config.learn_scales) for _, theirs in shapes
        )

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = []
        pairs = deepest_pairs(student.stages, teacher.stages)
        for regressor, log_scale, pair in zip(self.regressors, self.log_scales, pairs, strict=True):
            ours, theirs = to_smaller_size(*pair)
            losses.append(vid_loss(regressor(ours), log_scale, theirs, self.config.epsilon))
        return {"vid": self.config.vid_weight * torch.stack(losses).sum()}
