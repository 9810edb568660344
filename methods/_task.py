"""What most methods have beside their own loss: the cross entropy, and KD's divergence where a weight is given.

And what those share that train something of theirs before the protocol's first epoch.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import final

from torch import Tensor

from kdbench.method import Batch, Method, Pretraining
from kdbench.net import Net, Outputs, Part

from .ce import check_settings, cross_entropy
from .kd import kl_per_image


class TaskMethod(Method, abc.ABC):
    """A method whose own terms stand beside ``ce`` and, with ``kd_weight``, ``kd``: the METHOD+KD of papers' tables.

    Its ``teacher_reads`` holds ``logits`` for the divergence.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """Weights of what is not the method's own."""

        ce_weight: float = 1.0
        """Weight of the cross entropy."""
        kd_weight: float = 0.0
        """Weight of KD's KL divergence; above 0 it is added as in the papers' METHOD+KD."""
        kd_temperature: float = 4.0
        """Temperature of that divergence, which includes its square."""

        def __post_init__(self) -> None:
            check_settings(self, non_negative=("ce_weight", "kd_weight"), positive=("kd_temperature",))

    config: Config

    @classmethod
    def needs(cls, config: Config) -> frozenset[Part]:
        """Return what the method's own terms read, and the logits for the divergence."""
        own = cls.own_needs(config)
        return own | {"logits"} if config.kd_weight > 0 else own

    @classmethod
    def own_needs(cls, config: Config) -> frozenset[Part]:  # noqa: ARG003
        """Return what the method's own terms read of the teacher: all but the logits, unless said otherwise."""
        return cls.teacher_reads - {"logits"}

    @abc.abstractmethod
    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the method's own terms, named and weighted."""

    @final
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted cross entropy, KD's divergence where it has a weight, and the method's own terms."""
        config = self.config
        terms = {"ce": config.ce_weight * cross_entropy(student.logits[: batch.size], batch.targets).mean()}
        if config.kd_weight > 0:
            plain = slice(batch.size)
            kl = kl_per_image(student.logits[plain], teacher.logits[plain], config.kd_temperature)
            terms["kd"] = config.kd_weight * kl.mean()
        return terms | self.distill(student, teacher, batch)


class PretrainedMethod(TaskMethod, abc.ABC):
    """A method with pre-training, of which nothing is left afterwards unless said otherwise."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(TaskMethod.Config):
        """Length of pre-training."""

        init_fraction: float = 30 / 240
        """Length of pre-training over that of the protocol; the reference's 30 of 240 epochs."""

        def __post_init__(self) -> None:
            TaskMethod.Config.__post_init__(self)
            check_settings(self, positive=("init_fraction",))

    config: Config

    @final
    @classmethod
    def pretraining(cls, config: Config) -> float:
        """Return the length of pre-training over that of the protocol."""
        return config.init_fraction

    @classmethod
    def pretraining_needs(cls, config: Config) -> frozenset[Part]:  # noqa: ARG003
        """Return all that the teacher gives but its logits."""
        return cls.teacher_reads - {"logits"}

    @classmethod
    def own_needs(cls, config: TaskMethod.Config) -> frozenset[Part]:  # noqa: ARG003
        """Return nothing."""
        return frozenset()

    @abc.abstractmethod
    def pretrain(self, student: Net) -> Pretraining:
        """Return what is trained before the protocol's first epoch."""

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Return nothing."""
        return {}
