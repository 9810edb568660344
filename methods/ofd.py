"""OFD: the student follows the teacher's stages before their ReLU, above a margin.

What that ReLU would cut off is raised to a margin: the mean of its negative values, which follows from the batch norm
before it. The student need not follow below the margin (partial L2 distance). Follows mdistiller in the weights and in
which stages count, and the paper in that the teacher's batch norms use their running statistics.

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

import math

import torch
from torch import Tensor, nn

from kdbench.functional import at_least_float32, deepest_pairs, to_smaller_size
from kdbench.method import Batch, Outputs, Paper, Reads, Setup, log, weight

from ._connectors import conv_norm, images_for_norm
from ._task import TaskMethod

RARE = 1e-3
"""Share of negative values up to which the margin is three deviations below 0."""


def negative_mean(weight: Tensor, bias: Tensor) -> Tensor:
    """Mean of the negative values of Gaussians with deviations ``|weight|`` and means ``bias``, float32 ``(C,)``.

    ``bias - d * pdf(bias / d) / cdf(-bias / d)``, d the deviation; ``-3 d`` where less than 0.1 % are negative.
    """
    deviation, mean = weight.detach().double().abs().clamp_min(1e-12), bias.detach().double()
    ratio = mean / deviation
    negative = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    usual = mean - deviation * density / negative.clamp_min(RARE)
    return torch.where(negative > RARE, usual, -3 * deviation).float()


def partial_distance(connected: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Squared distance of maps ``(B, C, H, W)`` to the teacher's above ``margin`` ``(C, 1, 1)``.

    Elements where the goal is not positive and the student is not above it count nothing; summed over an image,
    averaged over images.
    """
    connected = at_least_float32(connected)
    goal = torch.maximum(at_least_float32(teacher), margin)
    counts = (connected > goal) | (goal > 0)
    return torch.where(counts, connected - goal, 0).square().sum() / connected.shape[0]


class OFD(TaskMethod):
    """Partial L2 distance to the teacher's stages before their ReLU.

    The deepest stage has the full weight and each one before half of the next one's. Where the networks have
    different numbers of stages, the deepest ones are matched. A student without maps before the last ReLU is read
    at its stages.
    """

    FAMILY = "features"
    PAPER = Paper(
        "A Comprehensive Overhaul of Feature Distillation",
        "Heo, Kim, Yun, Park, Kwak, Choi", "ICCV", 2019, "1904.01866",
    )  # fmt: skip
    MIN_STAGES = 1
    READS = Reads(student={"stages", "preact"}, teacher={"preact"})
    DEVIATIONS = (
        "teacher in eval mode; in the authors' CIFAR code and in mdistiller it runs on batch statistics, which move",
        "margins belong to the stages they are used for; mdistiller counts them from the first stage of the teacher",
        "of two sizes the smaller one is taken; the authors' code pools the teacher's map to the student's size",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: mdistiller's for CIFAR-100, which is the authors' 1 / 1000."""

        ofd_weight: float = weight(1e-3, search=log(1e-4, 1e-2))
        """Weight of the distance, summed over stages; the deepest counts 1, the one before 1/2 and so on."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        student, teacher = setup.student, setup.teacher
        norms = teacher.backbone.preact_norms()
        if not norms:
            raise ValueError(
                f"OFD reads the batch norm before the last ReLU of each stage, and {teacher.name} shows none: choose a "
                "teacher that has them, e.g. a resnet, wrn or vgg"
            )
        self.student_preact = student.has_preact
        shapes = deepest_pairs(student.shapes, teacher.shapes)
        self.min_images = max(images_for_norm(ours) for ours, _ in shapes)
        self.connectors = nn.ModuleList(conv_norm(ours[0], theirs[0]) for ours, theirs in shapes)
        for connector in self.connectors.modules():
            if isinstance(connector, nn.Conv2d):
                nn.init.kaiming_normal_(connector.weight, mode="fan_out")
        for number, norm in enumerate(norms[-len(shapes) :]):
            margin = negative_mean(norm.weight, norm.bias)[:, None, None]
            self.register_buffer(f"margin{number}", margin, persistent=False)

    def distances(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Return each stage's weighted distance, shallow to deep."""
        losses = []
        pairs = deepest_pairs(student.preact if self.student_preact else student.stages, teacher.preact)
        for number, (connector, (maps, theirs)) in enumerate(zip(self.connectors, pairs, strict=True)):
            connected, goal = to_smaller_size(connector(maps), theirs)
            halvings = len(pairs) - 1 - number
            losses.append(partial_distance(connected, goal, self.get_buffer(f"margin{number}")) / 2**halvings)
        return torch.stack(losses)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"ofd": self.config.ofd_weight * self.distances(student, teacher).sum()}
