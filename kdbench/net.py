"""``Net``: any image classifier seen as logits, penultimate features, stages and a linear classifier."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn

Part = Literal["logits", "penultimate", "map", "stem", "stages", "preact"]
"""A part of a network's outputs; `Outputs` describes each."""
PARTS: frozenset[Part] = frozenset(get_args(Part))
LOGITS: frozenset[Part] = frozenset({"logits"})
Shape = tuple[int, int, int]
"""Of one image's map: ``(C, H, W)``."""


@final
class Undeclared(ValueError):
    """A method reads a part of a network's outputs that it does not declare, or that the network does not have."""


@final
class Outputs:
    """What a network outputs for a batch, reduced to the parts that are read. It does not change.

    Legend: ``B`` images, ``V`` views, ``K`` classes, ``D`` penultimate width, stage i with ``C_i`` channels.

    Parameters
    ----------
    owner
        ``student`` or ``teacher``, for messages.
    logits, penultimate, map, stem, stages, preact
        The parts; None for one that is not read or that the network does not have.
    weight, bias
        The classifier's; no weight where nothing is read.
    absent
        Why the network does not have a part, by its name.

    Raises
    ------
    Undeclared
        Where a part is used that is not given: a method declares what it reads.
    """

    __slots__ = ("_absent", "_bias", "_owner", "_parts", "_weight")

    def __init__(
        self,
        owner: str,
        *,
        logits: Tensor | None = None,
        penultimate: Tensor | None = None,
        map: Tensor | None = None,  # noqa: A002
        stem: Tensor | None = None,
        stages: tuple[Tensor, ...] | None = None,
        preact: tuple[Tensor, ...] | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        absent: Mapping[Part, str] | None = None,
    ) -> None:
        self._owner = owner
        self._parts: dict[str, Any] = {"logits": logits, "penultimate": penultimate, "map": map, "stem": stem}
        self._parts |= {"stages": stages, "preact": preact}
        self._weight, self._bias = weight, bias
        self._absent: Mapping[Any, str] = absent or {}

    @property
    def logits(self) -> Tensor:
        """Logits, ``(V*B, K)``."""
        return self._given("logits")  # type: ignore[no-any-return]

    @property
    def penultimate(self) -> Tensor:
        """The classifier's input, ``(V*B, D)``."""
        return self._given("penultimate")  # type: ignore[no-any-return]

    @property
    def map(self) -> Tensor:
        """The feature map ``(V*B, D, H, W)`` whose mean over positions is ``penultimate``."""
        return self._given("map")  # type: ignore[no-any-return]

    @property
    def stem(self) -> Tensor:
        """The map ``(V*B, C, H, W)`` that enters the first stage."""
        return self._given("stem")  # type: ignore[no-any-return]

    @property
    def stages(self) -> tuple[Tensor, ...]:
        """Feature maps ``(V*B, C_i, H_i, W_i)`` at the end of each stage, shallow to deep, without the stem."""
        return self._given("stages")  # type: ignore[no-any-return]

    @property
    def preact(self) -> tuple[Tensor, ...]:
        """The maps of ``stages`` before their last ReLU."""
        return self._given("preact")  # type: ignore[no-any-return]

    @property
    def weight(self) -> Tensor:
        """The classifier's weight, ``(K, D)``."""
        if self._weight is None and self._absent:
            raise Undeclared(f"{self._owner} has no classifier: {next(iter(self._absent.values()))}")
        if self._weight is None:
            raise Undeclared(f"{self._owner} gives nothing: the method's Reads name no part of it")
        return self._weight

    @property
    def bias(self) -> Tensor | None:
        """The classifier's bias, ``(K,)``; None where it has none."""
        return self._bias if self.weight is not None else None

    def narrowed(self, reads: Collection[Part]) -> Outputs:
        """Return the same outputs with only the parts in ``reads``."""
        parts = {name: value if name in reads else None for name, value in self._parts.items()}
        return Outputs(self._owner, **parts, weight=self._weight, bias=self._bias, absent=self._absent)

    @classmethod
    def of_views(cls, outputs: Sequence[Outputs]) -> Outputs:
        """Put outputs for several views of the same images behind each other; all of them have the same parts."""
        first = outputs[0]
        if len(outputs) == 1:
            return first
        parts: dict[str, Any] = {}
        for name, part in first.parts().items():
            rows = [each._parts[name] for each in outputs]
            parts[name] = tuple(map(torch.cat, zip(*rows, strict=True))) if isinstance(part, tuple) else torch.cat(rows)
        return cls(first._owner, **parts, weight=first._weight, bias=first._bias, absent=first._absent)

    def parts(self) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """Return the parts that are given, by name."""
        return {name: part for name, part in self._parts.items() if part is not None}

    def _given(self, name: str) -> Any:
        if (part := self._parts[name]) is not None:
            return part
        if reason := self._absent.get(name):
            raise Undeclared(f"{self._owner} has no {name!r}: {reason}; choose another network")
        raise Undeclared(
            f"{self._owner} does not give {name!r}: add it to the method's Reads({self._owner}={{...}}), "
            "or choose a network that has it"
        )


@dataclass(frozen=True, slots=True)
class Features:
    """What a backbone computes below its classifier; None where it has no such maps."""

    penultimate: Tensor
    """The classifier's input, ``(B, D)``."""
    stages: tuple[Tensor, ...]
    """Maps at the end of each stage, shallow to deep."""
    preact: tuple[Tensor, ...] | None
    """The maps of ``stages`` before their last ReLU."""
    stem: Tensor | None
    """The map that enters the first stage."""
    map: Tensor | None = None
    """The map whose mean over positions is ``penultimate``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """A network from its first stage on, in pieces that take any map of the shape that they expect."""

    steps: tuple[Callable[[Tensor], Tensor], ...]
    """From each map of ``stages`` to the next one, the last through ``close``; one fewer than there are stages."""
    close: Callable[[Tensor], Tensor] = field(default_factory=nn.Identity)
    """Batch norm after the last map of ``stages``, where there is one."""
    finish: Callable[[Tensor], Tensor]
    """From what ``close`` returns to ``penultimate``."""
    activated: bool = True
    """Whether a ReLU has the last word in each map of ``stages``."""


class Backbone(nn.Module, abc.ABC):
    """A network that ends in one linear classifier over its penultimate features."""

    PREFIX: ClassVar[str] = ""
    """What the names in its state dict have in front of those of a published checkpoint."""

    @abc.abstractmethod
    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Features of normalised images ``(B, 3, H, W)``; without ``maps``, only ``penultimate`` counts."""

    @abc.abstractmethod
    def head(self) -> nn.Linear:
        """Return the linear classifier."""

    def map_absence(self) -> str:
        """Return why the network has no ``map``."""
        return "its classifier does not see the mean of a feature map"

    def segments(self) -> Segments | None:
        """Return what runs the network from a stage on; None where it cannot be run in pieces."""
        return None

    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Return the batch norm that ends the main path to each map of ``preact``; empty unless all have one."""
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
        Height and width of the images, for the dry forward pass that finds the shapes of maps.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, backbone: Backbone, *, mean: Sequence[float], std: Sequence[float], image_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.name = name
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.image_size = image_size
        with torch.no_grad():
            dry = self.eval().backbone.features(torch.zeros(1, 3, *image_size), maps=True)
        self.train()
        self.shapes: tuple[Shape, ...] = tuple(map(_shape, dry.stages))
        """Of the maps of ``stages``."""
        self.stem_shape: Shape | None = None if dry.stem is None else _shape(dry.stem)
        """Of ``stem``; None without one."""
        self.map_shape: Shape | None = None if dry.map is None else _shape(dry.map)
        """Of ``map``; None without one."""
        self.has_preact: bool = dry.preact is not None
        """Whether there is ``preact``."""
        reasons: dict[Part, str] = {
            "map": "" if self.map_shape else f"{name}: {backbone.map_absence()}",
            "stem": "" if self.stem_shape else f"{name} shows no map before its stages",
            "preact": "" if self.has_preact else f"{name} shows no maps before the last ReLU",
        }
        self.absent: dict[Part, str] = {part: reason for part, reason in reasons.items() if reason}
        """Why the network does not have a part, by its name."""

    @property
    def width(self) -> int:
        """Width of the penultimate features, ``D``."""
        return self.backbone.head().in_features

    @property
    def num_classes(self) -> int:
        """Number of classes, ``K``."""
        return self.backbone.head().out_features

    @property
    def widths(self) -> dict[Part, int]:
        """Numbers of one view's outputs, of the parts that have one row a view."""
        return {"logits": self.num_classes, "penultimate": self.width}

    def forward(self, images: Tensor, reads: Collection[Part] = LOGITS, owner: str = "student") -> Outputs:
        """Outputs for images ``(V*B, 3, H, W)`` in [0, 1], holding the parts named in ``reads``."""
        maps = not {"map", "stem", "stages", "preact"}.isdisjoint(reads)
        features = self.backbone.features((images - self.mean) / self.std, maps=maps)
        head = self.backbone.head()
        return Outputs(
            owner,
            logits=head(features.penultimate) if "logits" in reads else None,
            penultimate=features.penultimate if "penultimate" in reads else None,
            map=features.map if "map" in reads else None,
            stem=features.stem if "stem" in reads else None,
            stages=features.stages if "stages" in reads else None,
            preact=features.preact if "preact" in reads else None,
            weight=head.weight,
            bias=head.bias,
            absent=self.absent,
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
