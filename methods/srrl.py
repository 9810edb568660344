"""SRRL: the student's features, brought to the teacher's width, equal the teacher's, also for its classifier.

Feature matching, and softmax regression through the teacher's frozen classifier. The authors' code, which is for
ImageNet, maps the student's last map and averages it then; the SimKD repository, the public code for CIFAR-100, maps
the averaged features. The default is the latter, which suits networks whose classifier sees more than the last stage.

Legend: ``B`` images, ``K`` classes, ``D`` penultimate width of the teacher; maps ``(B, C, H, W)``.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, inner_products
from kdbench.method import Batch, Outputs, Paper, Reads, Setup, log, weight

from ._connectors import conv_norm, images_for_norm
from ._task import TaskMethod


def squared_error(ours: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of features ``(B, D)``, or of logits ``(B, K)``, over all elements."""
    return functional.mse_loss(at_least_float32(ours), at_least_float32(teacher))


def logits_by(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a classifier ``(K, D)``, ``(K,)`` says about features ``(B, D)``: logits ``(B, K)``, at least float32."""
    logits = inner_products(features, weight)
    return logits if bias is None else logits + bias


class SRRL(TaskMethod):
    """The student's features against the teacher's, directly and through the teacher's classifier."""

    FAMILY = "features"
    PAPER = Paper(
        "Knowledge Distillation via Softmax Regression Representation Learning",
        "Yang, Martinez, Bulat, Tzimiropoulos", "ICLR", 2021,
    )  # fmt: skip
    READS = Reads(student={"penultimate", "stages"}, teacher={"logits", "penultimate"})
    DEVIATIONS = (
        "the authors published ImageNet code alone, which connects maps; pooled features are the SimKD repository's",
        "the SimKD repository's own table has KD's divergence beside it (kd_weight = 1); the paper's objective has not",
        "one version of the authors' code weights only the regression term, another both: here each has its weight",
    )
    OURS = {
        "kd_weight": "the paper's objective; no public code produces its CIFAR-100 numbers",
        "connect": "the public code for CIFAR-100; what the paper's CIFAR-100 numbers come from was not published",
    }
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: the weights of the authors' code and of the SimKD repository, without KD's divergence."""

        feature_weight: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the squared error of the features."""
        regression_weight: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the squared error of the logits that the teacher's classifier gives."""
        connect: Literal["pooled", "map"] = "pooled"
        """What is mapped to the teacher's width: the classifier's input, or the last stage before it is averaged."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        student = setup.student
        if self.config.connect == "map" and not student.shapes:
            raise ValueError(f'{student.name} shows no feature maps: set connect = "pooled"')
        shape = student.shapes[-1] if self.config.connect == "map" else (student.width, 1, 1)
        self.connector = conv_norm(shape[0], setup.teacher.width)
        self.min_images = images_for_norm(shape)

    def connected(self, student: Outputs) -> Tensor:
        """Return the student's features at the teacher's width, ``(B, D)``."""
        maps = student.stages[-1] if self.config.connect == "map" else student.penultimate[:, :, None, None]
        return torch.relu(self.connector(maps)).mean(dim=(2, 3))

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config, ours = self.config, self.connected(student)
        logits = logits_by(ours, teacher.weight, teacher.bias)
        return {
            "feature": config.feature_weight * squared_error(ours, teacher.penultimate),
            "regression": config.regression_weight * squared_error(logits, teacher.logits),
        }
