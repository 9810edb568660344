"""OFA-KD: exits bring each stage of the student to logits, which learn from the teacher's logits, as the student's do.

Logits can be compared between networks of any two kinds. The weights of the classes are powers of the teacher's
probabilities, and that of the label is larger:

``loss = -sum over classes of w log p_student``, ``w = p_teacher^power``, of the label ``(1 + p_teacher)^power - 1``

Follows the authors' code. It is no divergence: at equal logits it is not 0, and its gradient vanishes only for
``power = 1``. Exits are for convolutional students; the authors' exits for tokens, transformer blocks, are not here.

Legend: ``B`` images, ``K`` classes; maps ``(B, C, H, W)``.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32
from kdbench.method import (
    Batch,
    Method,
    Outputs,
    Paper,
    PhaseName,
    Reads,
    Setup,
    Shape,
    count,
    linear,
    log,
    positive,
    temperature,
    weight,
)

from ._connectors import images_for_norm


def ofa_loss(student: Tensor, teacher: Tensor, targets: Tensor, power: float, temperature: float) -> Tensor:
    """Cross entropy with powers of the teacher's probabilities, from logits ``(B, K)``; in nats, mean over images.

    Both softmaxes are taken at ``temperature``, whose square is no factor.
    """
    log_student = functional.log_softmax(at_least_float32(student) / temperature, dim=1)
    log_teacher = functional.log_softmax(at_least_float32(teacher) / temperature, dim=1)
    label = torch.arange(log_teacher.shape[1], device=targets.device) == targets[:, None]
    weights = torch.where(label, (1 + log_teacher.exp()) ** power - 1, (power * log_teacher).exp())
    return -(weights * log_student).sum(dim=1).mean()


def halving_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two depthwise separable convolutions with batch norm and ReLU, the first of which halves a map's size."""
    layers: list[nn.Module] = []
    for channels, stride in ((in_channels, 2), (out_channels, 1)):
        layers += [
            nn.Conv2d(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def exit_of(channels: int, depth: int, width: int, num_classes: int) -> nn.Sequential:
    """Exit of a stage with ``depth`` deeper ones: blocks down to the last one's size, mean, and a classifier.

    Each block doubles the channels, but the last, which ends at ``width``; the last stage has a convolution instead.
    """
    widths = [channels * 2**block for block in range(depth)] + [width]
    blocks: list[nn.Module] = [halving_block(*pair) for pair in itertools.pairwise(widths)]
    body = blocks or [nn.Conv2d(channels, width, 1)]
    built = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
    for module in built.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return built


def images_for_exit(shape: Shape, depth: int) -> int:
    """Images that the batch norms of an exit need in training, given the shape of its stage."""
    channels, rows, columns = shape
    halved = (-(-rows // 2**depth), -(-columns // 2**depth))
    return images_for_norm((channels, *halved)) if depth else 1


class OFA(Method):
    """Cross entropy, and the modified cross entropy with the teacher of the logits and of those of each exit."""

    FAMILY = "logits"
    PAPER = Paper(
        "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
        "Hao, Guo, Han, Tang, Hu, Wang, Xu", "NeurIPS", 2023, "2310.19444",
    )  # fmt: skip
    READS = Reads(student={"logits", "stages"}, teacher={"logits"})
    DEVIATIONS = (
        "published for images of 224 x 224 and teachers from ImageNet, also on CIFAR-100: numbers cannot be compared",
        "one power for the logits and all exits, as in both published commands; the authors' code also takes one each",
        "exits count from the last stage; the authors' networks have 4 stages, those for small images mostly 3",
        "students of tokens, which the authors give exits of transformer blocks, are unsupported",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: the authors' code."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy."""
        kd_weight: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the student's logits against the teacher's."""
        exit_weight: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of each exit's logits against the teacher's; 0 for no exits."""
        num_exits: int = count(4)
        """Exits, at the deepest stages; fewer where the student has fewer stages."""
        power: float = positive(1.0, search=linear(1.0, 2.0))
        """Power of the teacher's probabilities; 1.5 for resnet18 from DeiT-T on ImageNet."""
        temperature: float = temperature(1.0, search=log(1.0, 10.0))
        """Divides all logits."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        student = setup.student
        self.exits = nn.ModuleList()
        if self.config.exit_weight == 0:
            return
        if "tokens" in student.absent.get("map", ""):
            raise ValueError(
                f"OFA's exits are for convolutional students, but {student.absent['map']}: choose another student, or "
                "set exit_weight = 0"
            )
        if not student.shapes:
            raise ValueError(f"{student.name} shows no feature maps: choose another student, or set exit_weight = 0")
        width = max(student.width, setup.teacher.width)
        shapes = student.shapes[-self.config.num_exits :]
        for depth, shape in zip(reversed(range(len(shapes))), shapes, strict=True):
            self.exits.append(exit_of(shape[0], depth, width, student.num_classes))
            self.min_images = max(self.min_images, images_for_exit(shape, depth))

    @classmethod
    def reads(cls, config: Config, phase: PhaseName) -> Reads:
        """Return the student's stages too where there are exits."""
        return cls.READS if config.exit_weight > 0 else Reads(student={"logits"}, teacher={"logits"})

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        goal = (teacher.logits, batch.targets, config.power, config.temperature)
        terms = {
            "ce": config.ce_weight * batch.cross_entropy(student.logits).mean(),
            "kd": config.kd_weight * ofa_loss(student.logits, *goal),
        }
        if self.exits:
            stages = student.stages[-len(self.exits) :]
            losses = [ofa_loss(leave(maps), *goal) for leave, maps in zip(self.exits, stages, strict=True)]
            terms["exits"] = config.exit_weight * torch.stack(losses).sum()
        return terms
