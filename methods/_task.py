"""What most methods have beside their own terms: the cross entropy, and KD's divergence where a weight is given.

And what those share that train something of theirs before the protocol's first epoch.
"""

import abc
from typing import Any, final

from torch import Tensor

from kdbench.method import (
    Batch,
    Method,
    Net,
    Outputs,
    PhaseName,
    Pretraining,
    Reads,
    Rows,
    positive,
    temperature,
    weight,
)

from .kd import kl_per_image


class TaskMethod(Method, abc.ABC):
    """A method whose own terms stand beside ``ce`` and, with ``kd_weight``, ``kd``: the METHOD+KD of papers' tables.

    ``READS`` name what the method's own terms read.
    """

    class Config(Method.Config):
        """Weights of what is not the method's own."""

        ce_weight: float = weight(1.0)
        """Weight of the cross entropy."""
        kd_weight: float = weight(0.0)
        """Weight of KD's KL divergence; above 0 it is added as in the papers' METHOD+KD."""
        kd_temperature: float = temperature(4.0)
        """Temperature of that divergence, which includes its square."""

    config: Config

    @classmethod
    def reads(cls, config: Any, phase: PhaseName) -> Reads:
        """Return what the method's own terms read, and the task."""
        return cls.READS | task_reads(config)

    @abc.abstractmethod
    def distill(
        self, student: Outputs, teacher: Outputs, batch: Batch
    ) -> dict[str, Tensor] | tuple[dict[str, Tensor], Rows]:
        """Return the method's own terms, named and weighted; beside them, what `remember` is to be given."""

    @final
    def loss(
        self, student: Outputs, teacher: Outputs, batch: Batch
    ) -> dict[str, Tensor] | tuple[dict[str, Tensor], Rows]:
        """Return the weighted cross entropy, KD's divergence where it has a weight, and the method's own terms."""
        config = self.config
        terms = {"ce": config.ce_weight * batch.cross_entropy(student.logits[: batch.size]).mean()}
        if config.kd_weight > 0:
            plain = slice(batch.size)
            kl = kl_per_image(student.logits[plain], teacher.logits[plain], config.kd_temperature)
            terms["kd"] = config.kd_weight * kl.mean()
        own = self.distill(student, teacher, batch)
        return (terms | own[0], own[1]) if isinstance(own, tuple) else terms | own


def task_reads(config: TaskMethod.Config) -> Reads:
    """Return what the cross entropy reads, and KD's divergence where it has a weight."""
    return Reads(student={"logits"}, teacher={"logits"} if config.kd_weight > 0 else ())


class PretrainedMethod(TaskMethod, abc.ABC):
    """A method with pre-training, which reads ``READS``, and by default no terms of its own afterwards."""

    class Config(TaskMethod.Config):
        """Length of pre-training."""

        init_fraction: float = positive(30 / 240)
        """Length of pre-training over that of the protocol; the reference's 30 of 240 epochs."""

    config: Config

    @classmethod
    def reads(cls, config: Any, phase: PhaseName) -> Reads:
        """Return ``READS`` in pre-training, and what the task reads afterwards."""
        return cls.READS if phase == "pretraining" else task_reads(config)

    @final
    @classmethod
    def pretraining(cls, config: Config) -> float:
        return config.init_fraction

    @abc.abstractmethod
    def pretrain(self, student: Net) -> Pretraining:
        """Return what is trained before the protocol's first epoch."""

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {}
