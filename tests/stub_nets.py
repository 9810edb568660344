"""Networks of any shape for tests of methods: their features are weightless, only the classifier is trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from kdbench.method import Batch, Rows, Setup
from kdbench.net import Backbone, Features, Net, Segments


class StubBackbone(Backbone):
    """Gives maps of chosen shapes, filled from the images' means, and a linear classifier."""

    def __init__(
        self,
        width: int,
        num_classes: int,
        shapes: Sequence[tuple[int, int, int]],
        preact: bool,
        stem: tuple[int, int, int] | None,
        last: tuple[int, int, int] | None,
    ):
        super().__init__()
        self.fc = nn.Linear(width, num_classes)
        self.shapes = tuple(shapes)
        self.has_preact = preact
        self.stem = stem
        matching = bool(self.shapes) and self.shapes[-1][0] == width
        self.last = last or (self.shapes[-1] if matching else None)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        level = images.mean(dim=(1, 2, 3))
        shapes = (self.stem, self.last, *self.shapes)
        stem, last, *maps = (shape and level[:, None, None, None].expand(-1, *shape) for shape in shapes)
        stages = tuple(maps)
        pooled = level[:, None].expand(-1, self.fc.in_features)
        return Features(pooled, stages, stages if self.has_preact else None, stem, last)

    def segments(self) -> Segments:
        """Maps of a stage are the means over channels and positions of those before it."""

        def step(shape: tuple[int, int, int], maps: Tensor) -> Tensor:
            return maps.mean(dim=(1, 2, 3))[:, None, None, None].expand(-1, *shape)

        def finish(maps: Tensor) -> Tensor:
            return maps.mean(dim=(1, 2, 3))[:, None].expand(-1, self.fc.in_features)

        return Segments(steps=tuple(partial(step, shape) for shape in self.shapes[1:]), finish=finish)

    def head(self) -> nn.Linear:
        return self.fc

    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        return tuple(nn.BatchNorm2d(shape[0]) for shape in self.shapes) if self.has_preact else ()


def stub_net(
    *,
    width: int = 8,
    num_classes: int = 10,
    shapes: Sequence[tuple[int, int, int]] = (),
    preact: bool = True,
    stem: tuple[int, int, int] | None = None,
    last: tuple[int, int, int] | None = None,
) -> Net:
    backbone = StubBackbone(width, num_classes, shapes, preact, stem, last)
    return Net("stub", backbone, mean=(0.0,) * 3, std=(1.0,) * 3, image_size=(8, 8))


def terms_of(result: dict[str, Tensor] | tuple[dict[str, Tensor], Rows]) -> dict[str, Tensor]:
    """The terms alone of what a loss returns."""
    return result[0] if isinstance(result, tuple) else result


def stub_setup(student: Net, teacher: Net, labels: Tensor | None = None, epochs: int = 240) -> Setup:
    labels = torch.arange(40) % student.num_classes if labels is None else labels
    return Setup(student=student, teacher=teacher, labels=labels, epochs=epochs, steps_per_epoch=1, group_size=64)


def stub_batch(
    targets: Tensor, *, epoch: int = 1, epochs: int = 240, index: Tensor | None = None, seed: int = 0
) -> Batch:
    return Batch(
        images=torch.zeros(len(targets), 3, 8, 8),
        targets=targets,
        index=torch.arange(len(targets)) if index is None else index,
        epoch=epoch,
        epochs=epochs,
        generator=torch.Generator().manual_seed(seed),
    )
