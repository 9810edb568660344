"""The seam between the harness and a distillation method."""

from __future__ import annotations

import abc
import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from kdbench.net import Net, Outputs, Part


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
        """Whether the first views are those of another plan; its images are then the first of this one's."""
        if other.num_strong:
            return self.quarter_turns == other.quarter_turns and self.num_strong >= other.num_strong
        return self.quarter_turns[: other.num_views] == other.quarter_turns


PLAIN = ViewPlan()


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch. Legend: ``B`` images, ``V`` views; view-major rows, the plain view first."""

    images: Tensor
    """``(V*B, 3, H, W)``, in [0, 1]."""
    targets: Tensor
    """``(B,)``, class numbers."""
    index: Tensor
    """``(B,)``, positions in the training set; no position twice."""
    epoch: int
    """From 1; in pre-training, of that."""
    epochs: int
    """In all; in pre-training, of that."""
    generator: torch.Generator
    """For the method's own randomness, on the images' device."""

    @property
    def size(self) -> int:
        """Number of images, ``B``."""
        return self.targets.shape[0]

    @property
    def progress(self) -> float:
        """Epochs begun over all epochs, in (0, 1]."""
        return self.epoch / self.epochs


@final
class Setup:
    """What a method is built from: the two networks, the training labels and the length of training."""

    def __init__(self, *, student: Net, teacher: Net | None, labels: Tensor, epochs: int, steps_per_epoch: int) -> None:
        self.student = student
        self._teacher = teacher
        self.labels = labels
        """``(N,)``, class numbers of the training images."""
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch

    @property
    def teacher(self) -> Net:
        """The frozen teacher; a method whose ``teacher_reads`` is empty has none."""
        if self._teacher is None:
            raise ValueError("there is no teacher: the method's teacher_reads is empty")
        return self._teacher


_RESOURCE, _LATER = "resource", "later"


def resource(default: Any) -> Any:
    """Return a field of a ``Config`` that bounds memory or time and changes no result: no part of a cell's identity."""
    return dataclasses.field(default=default, metadata={_RESOURCE: True})


def later(default: Any) -> Any:
    """Return a field of a ``Config`` that was added to a method whose results were kept before.

    Its default must change nothing: at that value the field is no part of a cell's identity, so that the cells of
    before stay what they are.
    """
    return dataclasses.field(default=default, metadata={_LATER: True})


def deciding(config: Any) -> dict[str, Any]:
    """Return the settings that decide results, as plain values."""
    return {
        field.name: value
        for field in dataclasses.fields(config)
        for value in (getattr(config, field.name),)
        if _RESOURCE not in field.metadata and not (_LATER in field.metadata and value == field.default)
    }


Loss = Callable[[Outputs, Outputs, Batch], dict[str, Tensor]]
"""From what student and teacher say of a batch to named, weighted scalar terms; their sum is minimised."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """What is trained before the protocol's first epoch, by a loss of its own; all else is frozen and in eval mode.

    The teacher gives what ``pretraining_needs`` names. The optimiser is the protocol's, and a fresh one afterwards.
    """

    loss: Loss
    train: tuple[nn.Module, ...]
    """Of the method and the student; what the loss does not reach stays as it is."""
    freeze: tuple[nn.Module, ...] = ()
    """Of these modules, those that stay as they are from the first epoch on."""
    student_reads: frozenset[Part] = frozenset()
    """What the loss reads of the student, which is not run where that is nothing."""
    learning_rate: float | None = None
    """Of the first epoch; by default the protocol's for this student."""
    milestones: tuple[float, ...] = ()
    """Fractions of pre-training after which the learning rate is multiplied by the protocol's ``decay``."""


class Method(nn.Module, abc.ABC):
    """One published way to distil. It owns only what it adds to the student: heads and buffers.

    A method is built on the CPU with its own random stream and then moved to the device of the run.
    """

    VERSION: ClassVar[int] = 1
    """Raised when results change."""
    FAMILY: ClassVar[str]
    """Logits, features, relations, contrast, or none."""
    student_reads: ClassVar[frozenset[Part]] = frozenset({"logits"})
    teacher_reads: ClassVar[frozenset[Part]]
    OURS: ClassVar[dict[str, str]] = {}
    """Settings whose default no source states, with the reason for our choice."""
    DEVIATIONS: ClassVar[tuple[str, ...]] = ()
    """Where paper and code differ, and which one the defaults follow."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Hyper-parameters; the defaults are the paper's main setting."""

    def __init__(self, config: Any, setup: Setup) -> None:  # noqa: ARG002
        super().__init__()
        self.config = config

    @classmethod
    def views(cls, config: Any) -> ViewPlan:  # noqa: ARG003
        """Return the views of each image that the method trains on."""
        return PLAIN

    @classmethod
    def needs(cls, config: Any) -> frozenset[Part]:  # noqa: ARG003
        """Return what the loss reads of the teacher with these settings; narrower than ``teacher_reads`` at times.

        The teacher is asked for this alone, and its cache keeps no more.
        """
        return cls.teacher_reads

    @classmethod
    def pretraining(cls, config: Any) -> float:  # noqa: ARG003
        """Return the length of pre-training over that of the protocol; 0 for none. It is one epoch at least."""
        return 0.0

    @classmethod
    def pretraining_needs(cls, config: Any) -> frozenset[Part]:
        """Return what the loss of pre-training reads of the teacher; by default, what the other one does."""
        return cls.needs(config)

    @final
    @classmethod
    def all_needs(cls, config: Any) -> frozenset[Part]:
        """Return what is read of the teacher from the beginning to the end, in pre-training too."""
        return cls.needs(config) | (cls.pretraining_needs(config) if cls.pretraining(config) > 0 else frozenset())

    @final
    @classmethod
    def pretraining_epochs(cls, config: Any, epochs: int) -> int:
        """Return the number of epochs before the protocol's ``epochs``."""
        part = cls.pretraining(config)
        return max(1, round(part * epochs)) if part > 0 else 0

    def pretrain(self, student: Net) -> Pretraining:
        """Return what is done before the protocol's first epoch; asked only where ``pretraining`` is above 0."""
        raise NotImplementedError

    def wrap(self, setup: Setup) -> Net:
        """Return the network that is trained, evaluated and saved, the student itself unless said otherwise.

        Modules that stand in it are no part of the method. What is drawn here comes from the method's stream.
        """
        return setup.student

    @abc.abstractmethod
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return named, weighted scalar terms; their sum is minimised."""


def field_docs(config: type) -> dict[str, str]:
    """Return the docstring below each field of a ``Config`` class, those of inherited fields first."""
    docs: dict[str, str] = {}
    for owner in reversed(config.__mro__):
        if dataclasses.is_dataclass(owner):
            docs |= _own_docs(owner)
    return docs


def _own_docs(config: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for line, following in itertools.pairwise([*body.body, ast.Pass()]):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            docs[line.target.id] = inspect.cleandoc(str(following.value.value)) if is_text else ""  # type: ignore[attr-defined]
    return docs
