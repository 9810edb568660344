"""``Net``: any image classifier seen as logits, penultimate features, stages and a linear classifier."""

from __future__ import annotations

import abc
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

Part = Literal["logits", "penultimate", "stem", "stages", "preact"]
PARTS: frozenset[Part] = frozenset({"logits", "penultimate", "stem", "stages", "preact"})
LOGITS: frozenset[Part] = frozenset({"logits"})
Shape = tuple[int, int, int]
"""Of one image's map: ``(C, H, W)``."""


@final
class Undeclared(ValueError):
    """A method reads a part of a network's outputs that it does not declare, or that the network does not have."""


@final
class Outputs:
    """What a network says about a batch, reduced to the parts that were asked for.

    Legend: ``B`` images, ``V`` views, ``K`` classes, ``D`` penultimate width, stage i with ``C_i`` channels.
    Reading a part that was not asked for raises ``Undeclared``: a method must declare what it reads.
    """

    __slots__ = ("_owner", "_parts", "_weight", "bias")

    def __init__(
        self,
        owner: str,
        *,
        logits: Tensor | None = None,
        penultimate: Tensor | None = None,
        stem: Tensor | None = None,
        stages: tuple[Tensor, ...] | None = None,
        preact: tuple[Tensor, ...] | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        self._owner = owner
        self._parts = {"logits": logits, "penultimate": penultimate, "stem": stem, "stages": stages, "preact": preact}
        self._weight = weight
        self.bias = bias

    @property
    def logits(self) -> Tensor:
        """Logits, ``(V*B, K)``."""
        part = self._part("logits")
        assert isinstance(part, Tensor)
        return part

    @property
    def penultimate(self) -> Tensor:
        """The classifier's input, ``(V*B, D)``."""
        part = self._part("penultimate")
        assert isinstance(part, Tensor)
        return part

    @property
    def stem(self) -> Tensor:
        """The map ``(V*B, C, H, W)`` that enters the first stage."""
        part = self._part("stem")
        assert isinstance(part, Tensor)
        return part

    @property
    def stages(self) -> tuple[Tensor, ...]:
        """Feature maps ``(V*B, C_i, H_i, W_i)`` at the end of each stage, shallow to deep, without the stem."""
        part = self._part("stages")
        assert isinstance(part, tuple)
        return part

    @property
    def preact(self) -> tuple[Tensor, ...]:
        """The maps of ``stages`` before their last ReLU."""
        part = self._part("preact")
        assert isinstance(part, tuple)
        return part

    @property
    def weight(self) -> Tensor:
        """The classifier's weight, ``(K, D)``; ``bias`` is ``(K,)`` or None."""
        if self._weight is None:
            raise Undeclared(f"{self._owner} gives nothing: the method declares no reads of it")
        return self._weight

    def narrowed(self, reads: Collection[Part]) -> Outputs:
        """Return the same outputs with only the parts in ``reads``."""
        parts: dict[str, Any] = {name: value if name in reads else None for name, value in self._parts.items()}
        return Outputs(self._owner, **parts, weight=self._weight, bias=self.bias)

    def parts(self) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """The parts that were asked for, by name."""
        return {name: part for name, part in self._parts.items() if part is not None}

    def _part(self, name: str) -> Tensor | tuple[Tensor, ...]:
        part = self._parts[name]
        if part is None:
            raise Undeclared(
                f"{self._owner} does not give {name!r}: add it to the method's "
                f"{self._owner}_reads, or choose a network that has it"
            )
        return part


@dataclass(frozen=True, slots=True)
class Features:
    """What a backbone computes below its classifier. ``preact`` and ``stem`` are None where it has no such maps."""

    penultimate: Tensor
    stages: tuple[Tensor, ...]
    preact: tuple[Tensor, ...] | None
    stem: Tensor | None


class Backbone(nn.Module, abc.ABC):
    """A network that ends in one linear classifier over its penultimate features."""

    PREFIX: ClassVar[str] = ""
    """What the names in its state dict have in front of those of a published checkpoint."""

    @abc.abstractmethod
    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Features of normalised images ``(B, 3, H, W)``; without ``maps``, only ``penultimate`` counts."""

    @abc.abstractmethod
    def head(self) -> nn.Linear:
        """The linear classifier."""

    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The batch norm that ends the main path to each map of ``preact``; none unless all of them end in one."""
        return ()


@final
class Net(nn.Module):
    """A classifier of images in [0, 1] that normalises its own input.

    Parameters
    ----------
    name
        The network's registered name, for messages and records.
    backbone
        The network; ``state_dict`` of a checkpoint is that of ``net.backbone``.
    mean, std
        Per-channel normalisation, in [0, 1].
    image_size
        Height and width of the images, for the dry forward pass that finds ``shapes``, those of the stages, and
        ``stem_shape``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        backbone: Backbone,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.name = name
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.image_size = image_size
        training = self.training
        with torch.no_grad():
            dry = self.eval().backbone.features(torch.zeros(1, 3, *image_size), maps=True)
        self.train(training)
        self.shapes: tuple[Shape, ...] = tuple(map(_shape, dry.stages))
        self.stem_shape: Shape | None = None if dry.stem is None else _shape(dry.stem)
        self.has_preact: bool = dry.preact is not None

    @property
    def width(self) -> int:
        """Width of the penultimate features, ``D``."""
        return self.backbone.head().in_features

    @property
    def num_classes(self) -> int:
        """Number of classes, ``K``."""
        return self.backbone.head().out_features

    def forward(self, images: Tensor, reads: Collection[Part] = LOGITS, owner: str = "student") -> Outputs:
        """Outputs for images ``(V*B, 3, H, W)`` in [0, 1], holding the parts named in ``reads``."""
        maps = not {"stem", "stages", "preact"}.isdisjoint(reads)
        features = self.backbone.features((images - self.mean) / self.std, maps=maps)
        head = self.backbone.head()
        return Outputs(
            owner,
            logits=head(features.penultimate) if "logits" in reads else None,
            penultimate=features.penultimate if "penultimate" in reads else None,
            stem=features.stem if "stem" in reads else None,
            stages=features.stages if "stages" in reads else None,
            preact=features.preact if "preact" in reads else None,
            weight=head.weight,
            bias=head.bias,
        )

    def logits(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` alone."""
        return self(images).logits  # type: ignore[no-any-return]

    def around(self, backbone: Backbone) -> Net:
        """Return another network of the same name that takes the same images."""
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return Net(self.name, backbone, mean=mean, std=std, image_size=self.image_size)


def _shape(maps: Tensor) -> Shape:
    return maps.shape[1], maps.shape[2], maps.shape[3]
