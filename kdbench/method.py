"""The seam between the harness and a distillation method: all that a method's file imports beside its mathematics."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from kdbench.config import Config as BaseConfig
from kdbench.config import count, fraction, freeze, later, non_negative, positive, resource, temperature, weight
from kdbench.functional import cross_entropy
from kdbench.net import PARTS, Net, Outputs, Part, Shape

__all__ = [
    "PLAIN", "Batch", "Loss", "Method", "Net", "Outputs", "Paper", "Part", "PhaseName", "Pretraining", "Reads", "Rows",
    "Setup", "Shape", "ViewPlan", "count", "fraction", "later", "non_negative", "positive", "resource", "temperature",
    "weight",
]  # fmt: skip

PhaseName = Literal["pretraining", "training"]
"""Of the phases of a run: pre-training, where the method has some, and the protocol's own epochs."""


@final
@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method was published."""

    title: str
    authors: str
    """Family names, in order."""
    venue: str
    year: int
    arxiv: str | None = None
    """Number on arXiv, such as 1503.02531."""

    def __str__(self) -> str:
        """Title and place in one line."""
        return f"{self.title} ({self.place})"

    @property
    def place(self) -> str:
        """Venue, year and number on arXiv."""
        return f"{self.venue} {self.year}".strip() + (f", arXiv {self.arxiv}" if self.arxiv else "")


@final
@dataclass(frozen=True, slots=True, init=False)
class Reads:
    """Parts that a loss reads of the outputs of student and teacher; a network of which nothing is read is not run.

    Raises
    ------
    ValueError
        There is no such part.
    """

    student: frozenset[Part]
    teacher: frozenset[Part]

    def __init__(self, student: Collection[Part] = (), teacher: Collection[Part] = ()) -> None:
        for side, parts in (("student", student), ("teacher", teacher)):
            if isinstance(parts, str) or not PARTS.issuperset(parts):
                raise ValueError(f"Reads({side}=...) must be a set of {', '.join(sorted(PARTS))}, not {parts!r}")
            object.__setattr__(self, side, frozenset(parts))

    def __or__(self, other: Reads) -> Reads:
        """Return what either of the two reads."""
        return Reads(self.student | other.student, self.teacher | other.teacher)


@final
@dataclass(frozen=True, slots=True)
class ViewPlan:
    """Which augmented versions of an image a method sees.

    Every image is flipped once (or not), then each view turns it by its number of quarter turns and crops it on
    its own. View 0 is the plain view, which all methods share for one seed, epoch and image. Behind these stand views
    that are flipped and cropped on their own and then strongly augmented; see :mod:`kdbench.data.randaugment`.
    """

    quarter_turns: tuple[int, ...] = (0,)
    num_strong: int = 0

    def __post_init__(self) -> None:
        if self.quarter_turns[:1] != (0,) or not set(self.quarter_turns) <= {0, 1, 2, 3}:
            raise ValueError(f"quarter_turns must start with 0 and hold 0..3, not {self.quarter_turns}")
        if self.num_strong < 0:
            raise ValueError(f"num_strong must be 0 or more, not {self.num_strong}")

    @property
    def num_views(self) -> int:
        """Number of views an image has, ``V``."""
        return len(self.quarter_turns) + self.num_strong

    def begins_with(self, other: ViewPlan) -> bool:
        """Return whether the first views are those of another plan; its images are then the first of this one's."""
        if other.num_strong:
            return self.quarter_turns == other.quarter_turns and self.num_strong >= other.num_strong
        return self.quarter_turns[: other.num_views] == other.quarter_turns


PLAIN = ViewPlan()


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch. Legend: ``B`` images, ``V`` views; view-major rows, the plain view first.

    The phases of a run are pre-training, where the method has some, and the protocol's own epochs.
    """

    images: Tensor
    """``(V*B, 3, H, W)``, in [0, 1]."""
    targets: Tensor
    """``(B,)``, class numbers."""
    index: Tensor
    """``(B,)``, positions in the training set; no position twice."""
    epoch: int
    """Current epoch of this phase, from 1."""
    epochs: int
    """Number of epochs in this phase."""
    generator: torch.Generator
    """For the method's own randomness, on the images' device."""
    label_smoothing: float = 0.0
    """Of the protocol; for the task's loss alone."""

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Return the task's loss: the cross entropy of each image with its label, smoothed as the protocol says.

        What reads the label as a fact, such as a weight of images or the target of a decoupled loss, takes
        `kdbench.functional.cross_entropy` or ``targets``, which are never smoothed.

        Parameters
        ----------
        logits
            Of one view of each image, ``(B, K)``.

        Returns
        -------
        Tensor
            ``(B,)``, in nats, at least float32.
        """
        return cross_entropy(logits, self.targets, self.label_smoothing)

    @property
    def size(self) -> int:
        """Number of images, ``B``."""
        return self.targets.shape[0]

    @property
    def progress(self) -> float:
        """Epochs of this phase that have begun over all of its epochs, in (0, 1]."""
        return self.epoch / self.epochs


@final
class Setup:
    """What a method is built from: the two networks, the training labels and the length of training."""

    def __init__(
        self,
        *,
        student: Net,
        teacher: Net | None,
        labels: Tensor,
        epochs: int,
        steps_per_epoch: int,
        group_size: int,
    ) -> None:
        self.student = student
        self._teacher = teacher
        self.labels = labels
        """``(N,)``, class numbers of the training images."""
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.group_size = group_size
        """Images that a loss is given at once; the last groups of an epoch may have fewer."""

    @property
    def teacher(self) -> Net:
        """The frozen teacher; a method whose ``READS`` name no part of a teacher has none."""
        if self._teacher is None:
            raise ValueError("there is no teacher: the method's READS name no part of one")
        return self._teacher


Rows = Mapping[str, Tensor]
"""What a method will remember of a group of images: tensors by name, whose first dimension goes over the images."""
Loss = Callable[[Outputs, Outputs, Batch], dict[str, Tensor] | tuple[dict[str, Tensor], Rows]]
"""From the outputs of student and teacher for a batch to named, weighted scalar terms; their sum is minimised.

A method with a memory returns a pair: the terms, and the rows that `Method.remember` is to be given.
"""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """What is trained before the protocol's first epoch, by a loss of its own; all else is frozen and in eval mode.

    What the loss reads is what ``Method.reads`` returns for the phase ``"pretraining"``; epochs of the batches count
    from 1 in this phase. The optimiser is the protocol's, and a fresh one afterwards.
    """

    loss: Loss
    train: tuple[nn.Module, ...]
    """Of the method and the student; what the loss does not reach stays as it is."""
    freeze: tuple[nn.Module, ...] = ()
    """Of these modules, those that stay as they are from the first epoch on."""
    learning_rate: float | None = None
    """Learning rate of the first epoch; by default the protocol's for this student."""
    milestones: tuple[float, ...] = ()
    """Fractions of pre-training after which the learning rate is multiplied by the protocol's ``decay``."""


class Method(nn.Module, abc.ABC):
    """One published way to distil. It owns only what it adds to the student: heads and buffers.

    A method is built on the CPU with its own random stream and then moved to the device of the run. Its ``Config``
    becomes a frozen dataclass by itself.

    Raises
    ------
    ValueError
        A network has fewer stages than ``MIN_STAGES``, or there are fewer classes than ``MIN_CLASSES``.
    """

    VERSION: ClassVar[int] = 1
    """Raised when results change."""
    FAMILY: ClassVar[str]
    """Logits, features, relations, contrast, or none."""
    PAPER: ClassVar[Paper | None] = None
    READS: ClassVar[Reads]
    """What the loss reads with the usual settings. A method that names no part of the teacher here has none."""
    MIN_STAGES: ClassVar[int] = 0
    """Stages that each network must have, the teacher where there is one."""
    MIN_CLASSES: ClassVar[int] = 1
    """Classes that the data set must have."""
    VIEWS: ClassVar[ViewPlan] = PLAIN
    """Views of each image with the usual settings."""
    OURS: ClassVar[dict[str, str]] = {}
    """Settings whose default no source states, with the reason for our choice."""
    DEVIATIONS: ClassVar[tuple[str, ...]] = ()
    """Where paper and code differ, and which one the defaults follow."""

    min_images: int = 1
    """Fewest images of a training batch; 2 where a batch norm sees one value of an image. Set in ``__init__``."""

    @dataclass(frozen=True, kw_only=True)
    class Config(BaseConfig):
        """Hyper-parameters; the defaults are the paper's main setting."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "Config" in vars(cls):
            freeze(cls.Config)

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__()
        self.config = config
        if setup.student.num_classes < self.MIN_CLASSES:
            raise ValueError(
                f"{type(self).__name__} needs at least {self.MIN_CLASSES} classes, not {setup.student.num_classes}: "
                "choose another data set, or another method"
            )
        for net in (setup.student, *([setup.teacher] if self.READS.teacher else [])):
            if len(net.shapes) < self.MIN_STAGES:
                raise ValueError(
                    f"{type(self).__name__} needs networks of at least {self.MIN_STAGES} "
                    f"stage{'s' if self.MIN_STAGES > 1 else ''}, but {net.name} has {len(net.shapes)}: choose another "
                    "network, or a method that reads logits or penultimate features"
                )

    @classmethod
    def reads(cls, config: Any, phase: PhaseName) -> Reads:  # noqa: ARG003
        """Return what the loss of a phase reads with these settings, by default ``READS``.

        The networks compute this alone, and a teacher's cache keeps no more.
        """
        return cls.READS

    @final
    @classmethod
    def all_reads(cls, config: Any) -> Reads:
        """Return what is read with these settings in any phase."""
        reads = cls.reads(config, "training")
        return reads | cls.reads(config, "pretraining") if cls.pretraining(config) > 0 else reads

    @classmethod
    def views(cls, config: Any) -> ViewPlan:  # noqa: ARG003
        """Return the views of each image that the method trains on with these settings, by default ``VIEWS``."""
        return cls.VIEWS

    @classmethod
    def pretraining(cls, config: Any) -> float:  # noqa: ARG003
        """Return the length of pre-training over that of the protocol; 0 for none. It is one epoch at least."""
        return 0.0

    @final
    @classmethod
    def pretraining_epochs(cls, config: Any, epochs: int) -> int:
        """Return the number of epochs before the protocol's ``epochs``."""
        part = cls.pretraining(config)
        return max(1, round(part * epochs)) if part > 0 else 0

    def pretrain(self, student: Net) -> Pretraining:
        """Return what is done before the protocol's first epoch; called only where ``pretraining`` is above 0."""
        raise NotImplementedError

    def wrap(self, setup: Setup) -> Net:
        """Return the network that is trained, evaluated and saved, by default the student itself.

        Modules that stand in it are no part of the method. What is drawn here comes from the method's stream.
        """
        return setup.student

    @abc.abstractmethod
    def loss(
        self, student: Outputs, teacher: Outputs, batch: Batch
    ) -> dict[str, Tensor] | tuple[dict[str, Tensor], Rows]:
        """Return named, weighted scalar terms, whose sum is minimised; beside them, what `remember` is to be given.

        It changes nothing of the method: a batch may come in groups, in any order.
        """

    @torch.no_grad()
    def remember(self, rows: Rows) -> None:
        """Take up what ``loss`` has returned for it, of all groups in the order of the batch; after the backward pass.

        Called where there is something alone.
        """
        raise NotImplementedError
