"""SimKD: knowledge distillation with the reused teacher classifier.

Chen, Mei, Zhang, Wang, Feng, Chen; CVPR 2022; arXiv 2203.14001.
The student learns no classifier: a projector brings its last map to the teacher's channels, where it should equal the
teacher's map, and the teacher's frozen classifier reads its mean. These together are the network that is trained,
evaluated and saved. As in the paper and the authors' command, this squared error is the whole loss.

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.method import Batch, Method, Setup
from kdbench.models.layers import conv1x1, conv3x3
from kdbench.net import Backbone, Features, Net, Outputs, Part

from ._connectors import check_norm_input
from ._maps import num_matched, pooled_to
from .ce import at_least_float32, check_settings


def map_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of maps ``(B, C, H, W)`` over all elements; the teacher's is average-pooled to the size."""
    goal = pooled_to(at_least_float32(teacher), projected.shape[2:])
    return functional.mse_loss(at_least_float32(projected), goal)


def bottleneck(in_channels: int, out_channels: int, factor: int) -> nn.Sequential:
    """Three convolutions, 1 x 1, 3 x 3 and 1 x 1, each with batch norm and ReLU; the middle is narrower by a factor."""
    width = out_channels // factor
    return nn.Sequential(
        *(conv1x1(in_channels, width), nn.BatchNorm2d(width), nn.ReLU()),
        *(conv3x3(width, width), nn.BatchNorm2d(width), nn.ReLU()),
        *(conv1x1(width, out_channels), nn.BatchNorm2d(out_channels), nn.ReLU()),
    )


def is_behind_relu(teacher: Net) -> bool:
    """Whether a classifier sees the mean of the last ``preact`` behind a ReLU or of the last stage; else ValueError."""
    images = torch.rand(2, 3, *teacher.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = teacher.eval()(images.to(teacher.mean.device), {"penultimate", "stages", "preact"}, "teacher")
    for preact in (False, True)[: 1 + teacher.has_preact]:
        mean = last_map(found, preact=preact).mean(dim=(2, 3))
        if mean.shape == found.penultimate.shape and torch.allclose(mean, found.penultimate, rtol=1e-4, atol=1e-5):
            return preact
    raise ValueError(
        f"SimKD reuses a classifier that sees the mean of the last feature map, but {teacher.name} has layers between "
        "the two: choose another teacher"
    )


def last_map(outputs: Outputs, *, preact: bool) -> Tensor:
    """Return the last stage, taken before its ReLU or not, as it is averaged for the classifier."""
    return torch.relu(outputs.preact[-1]) if preact else outputs.stages[-1]


@final
class Reusing(Backbone):
    """A body, a projector on its last map pooled to ``size``, which adds a stage, and a frozen copy of a classifier."""

    def __init__(self, body: Backbone, projector: nn.Module, classifier: nn.Linear, size: tuple[int, int]) -> None:
        super().__init__()
        self.body, self.projector, self.size = body, projector, size
        self.classifier = copy.deepcopy(classifier).requires_grad_(requires_grad=False)

    def features(self, images: Tensor, *, maps: bool) -> Features:  # noqa: ARG002
        """Return the body's maps and the projected one, and the mean of the latter."""
        found = self.body.features(images, maps=True)
        source = pooled_to(found.stages[-1], self.size)
        check_norm_input(source, "SimKD", training=self.training)
        projected = self.projector(source)
        return Features(projected.mean(dim=(2, 3)), (*found.stages, projected), None, found.stem)

    def head(self) -> nn.Linear:
        """Return the reused classifier."""
        return self.classifier


def freeze_behind_last_map(body: Backbone, image_size: tuple[int, int]) -> None:
    """Freeze the parameters that the last map does not depend on: those of the classifier and of layers before it."""
    training = body.training
    found = body.eval().features(torch.zeros(1, 3, *image_size), maps=True)
    body.train(training)
    parameters = [parameter for parameter in body.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(found.stages[-1].sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad = gradient is not None


@final
class SimKD(Method):
    """Mean squared error between the projected last map and the teacher's, whose classifier the student keeps.

    A training batch of one image raises ValueError where that map has a single pixel.
    """

    FAMILY = "features"
    student_reads: ClassVar[frozenset[Part]] = frozenset({"stages"})
    teacher_reads: ClassVar[frozenset[Part]] = frozenset({"stages", "preact"})
    DEVIATIONS = (
        "what is evaluated, here as there, is larger than other methods' student by a projector and the teacher's "
        "classifier; the student's own classifier and layers behind its last map stay as drawn, and nothing uses them",
        "wide residual teachers, which the authors do not have, are read behind their last batch norm and ReLU",
        "the authors' teachers are the checkpoints that were best on the test set",
    )

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """Defaults: the authors' for CIFAR-100."""

        factor: int = 2
        """The projector's middle is this many times narrower than the teacher's last map."""

        def __post_init__(self) -> None:
            check_settings(self, positive=("factor",))

    config: Config

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        num_matched("SimKD", setup)
        channels = setup.teacher.shapes[-1][0]
        if self.config.factor > channels:
            raise ValueError(f"factor must be at most the teacher's {channels} channels, not {self.config.factor}")
        self.preact = is_behind_relu(setup.teacher)

    def wrap(self, setup: Setup) -> Net:
        """Return the student's body with a projector and the teacher's classifier."""
        student, body = setup.student, setup.student.backbone
        (into, *ours), (out, *theirs) = student.shapes[-1], setup.teacher.shapes[-1]
        height, width = map(min, ours, theirs)
        freeze_behind_last_map(body, student.image_size)
        projector = bottleneck(into, out, self.config.factor)
        return student.around(Reusing(body, projector, setup.teacher.backbone.head(), (height, width)))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the squared error of the maps."""
        return {"feature": map_loss(student.stages[-1], last_map(teacher, preact=self.preact))}


METHOD = SimKD
