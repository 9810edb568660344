"""The seam between the harness and a distillation method: all that a method's file imports beside its mathematics."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from kdbench.config import (
    Base,
    choice,
    count,
    fraction,
    freeze,
    later,
    non_negative,
    positive,
    resource,
    temperature,
    weight,
)
from kdbench.config import Config as BaseConfig
from kdbench.net import Net, Outputs, Part, Shape
from kdbench.seam import (
    ONE_GROUP,
    PLAIN,
    Batch,
    Loss,
    Paper,
    PhaseName,
    Pretraining,
    Reads,
    Rows,
    Setup,
    TermGroup,
    ViewPlan,
)
from kdbench.space import among, linear, log
from kdbench.utils.text import counted

__all__ = [
    "ONE_GROUP",
    "PLAIN",
    "Base",
    "Batch",
    "Loss",
    "Method",
    "Net",
    "Outputs",
    "Paper",
    "Part",
    "PhaseName",
    "Pretraining",
    "Reads",
    "Rows",
    "Setup",
    "Shape",
    "TermGroup",
    "ViewPlan",
    "among",
    "choice",
    "count",
    "fraction",
    "later",
    "linear",
    "log",
    "non_negative",
    "positive",
    "resource",
    "temperature",
    "weight",
]  # fmt: skip


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
    """Where it was published; None for what is no published method."""
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
        """The settings, an instance of ``Config``."""
        if setup.student.num_classes < self.MIN_CLASSES:
            raise ValueError(
                f"{type(self).__name__} needs at least {self.MIN_CLASSES} classes, not {setup.student.num_classes}: "
                "choose another data set, or another method"
            )
        for net in (setup.student, *([setup.teacher] if self.READS.teacher and self.MIN_STAGES else [])):
            if len(net.shapes) < self.MIN_STAGES:
                raise ValueError(
                    f"{type(self).__name__} needs networks of at least {counted(self.MIN_STAGES, 'stage')}, "
                    f"but {net.name} has {len(net.shapes)}: choose another "
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

    @classmethod
    def surveys(cls, config: Any) -> frozenset[Part]:  # noqa: ARG003
        """Return the parts of the teacher's outputs that `survey` is given; by default none, and it is not called."""
        return frozenset()

    def survey(self, outputs: Callable[[Tensor], Iterable[Outputs]], labels: Tensor) -> Mapping[str, Tensor]:
        """Return buffers of the method, by name, from what the teacher says of the training set before the first step.

        What is returned may depend on the outputs alone, on no other setting: it is computed once for a teacher and a
        training set, and kept for all cells.

        Parameters
        ----------
        outputs
            Runs the teacher, without gradients, on training images without augmentation, by their places ``(M,)`` in
            ``labels``; gives one forward pass of images after another. It may be called again, in place of keeping
            outputs that memory does not hold.
        labels
            Class numbers of these images, ``(N,)``, on the CPU.
        """
        raise NotImplementedError

    def wrap(self, setup: Setup) -> Net:
        """Return the network that is trained, evaluated and saved, by default the student itself.

        Modules that stand in it are no part of the method. What is drawn here comes from the method's stream.
        """
        return setup.student

    @classmethod
    def term_groups(cls, config: Any) -> tuple[TermGroup, ...]:  # noqa: ARG003
        """Return groups of the terms of ``loss`` whose gradients and momenta are kept apart; by default there is one.

        Each group more is one more backward pass of each step. In pre-training there is one group.
        """
        return ONE_GROUP

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
