"""SimKD: the student learns no classifier, but a map that the teacher's frozen classifier reads.

A projector brings its last map to the teacher's channels, where it should equal the teacher's map, and the teacher's
classifier reads its mean. These together are the network that is trained, evaluated and saved. As in the paper and the
authors' command, this squared error is the whole loss.

Legend: ``B`` images; maps ``(B, C, H, W)``.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32, pooled_to
from kdbench.method import Batch, Method, Net, Outputs, Paper, Reads, Setup, Shape, among, count
from kdbench.models.layers import conv1x1, conv3x3
from kdbench.net import Backbone, Features

from ._connectors import images_for_norm


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


class Reusing(Backbone):
    """A body, a projector on its last map pooled to ``size``, which adds a stage, and a frozen copy of a classifier."""

    def __init__(self, body: Backbone, projector: nn.Module, classifier: nn.Linear, size: tuple[int, int]) -> None:
        super().__init__()
        self.body, self.projector, self.size = body, projector, size
        self.classifier = copy.deepcopy(classifier).requires_grad_(requires_grad=False)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Return the body's maps and the projected one, and the mean of the latter."""
        body = self.body.features(images, maps=True)
        projected = self.projector(pooled_to(body.stages[-1], self.size))
        return Features(projected.mean(dim=(2, 3)), (*body.stages, projected), None, body.stem, projected)

    def head(self) -> nn.Linear:
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


class SimKD(Method):
    """Mean squared error between the projected last map and the teacher's, whose classifier the student keeps."""

    FAMILY = "features"
    PAPER = Paper(
        "Knowledge Distillation with the Reused Teacher Classifier",
        "Chen, Mei, Zhang, Wang, Feng, Chen", "CVPR", 2022, "2203.14001",
    )  # fmt: skip
    MIN_STAGES = 1
    READS = Reads(student={"stages"}, teacher={"map"})
    DEVIATIONS = (
        "what is evaluated, here as there, is larger than other methods' student by a projector and the teacher's "
        "classifier; the student's own classifier and layers behind its last map stay as drawn, and nothing uses them",
        "wide residual teachers, which the authors do not have, are read behind their last batch norm and ReLU",
        "the authors' teachers are the checkpoints that were best on the test set",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: the authors' for CIFAR-100."""

        factor: int = count(2, search=among(1, 2, 4))
        """The projector's middle is this many times narrower than the teacher's last map."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        shape = setup.teacher.map_shape
        if shape is None:
            raise ValueError(
                "SimKD reuses a classifier that sees the mean of the last feature map, but "
                f"{setup.teacher.absent['map']}: choose another teacher"
            )
        if self.config.factor > shape[0]:
            raise ValueError(f"factor must be at most the teacher's {shape[0]} channels, not {self.config.factor}")
        _, rows, columns = setup.student.shapes[-1]
        self.shape: Shape = shape[0], min(shape[1], rows), min(shape[2], columns)
        self.min_images = images_for_norm(self.shape)

    def wrap(self, setup: Setup) -> Net:
        """Return the student's body with a projector and the teacher's classifier."""
        student, body = setup.student, setup.student.backbone
        freeze_behind_last_map(body, student.image_size)
        projector = bottleneck(student.shapes[-1][0], self.shape[0], self.config.factor)
        return student.around(Reusing(body, projector, setup.teacher.backbone.head(), self.shape[1:]))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"feature": map_loss(student.stages[-1], teacher.map)}
