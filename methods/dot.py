"""DOT: distillation keeps a momentum of its own, longer than the task's, so that it leads the optimisation.

A wrapper of another method, its base: ``base=dkd dkd.beta=2`` trains DKD in this way. The terms, what they read, the
views, heads and pre-training are the base's, with its recipe for the pair. The cross entropy, the term ``ce``, and all
other terms have a gradient and a momentum each: that of the task is lower by ``delta``, that of distillation higher.
One forward pass is followed by two backward passes.

With momentum 0.9 and delta 0.075 a gradient of distillation counts for 40 steps in all and one of the task for 5.7, so
that distillation weighs seven times what its loss weights say.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from kdbench.experiment.registry import load_base
from kdbench.method import (
    Base,
    Batch,
    Method,
    Net,
    Outputs,
    Paper,
    Part,
    PhaseName,
    Pretraining,
    Reads,
    Rows,
    Setup,
    TermGroup,
    ViewPlan,
    choice,
    fraction,
    linear,
)

TASK = "ce"
"""The term that is the task's; all others are those of distillation."""


def base_of(config: Any) -> type[Method]:
    """Return the method that is trained."""
    base: type[Method] = config.base.method
    return base


class DOT(Method):
    """Another method whose task and distillation have momenta of their own."""

    FAMILY = "logits"
    PAPER = Paper(
        "DOT: A Distillation-Oriented Trainer", "Zhao, Cui, Song, Liang", "ICCV", 2023, "2307.08436",
    )  # fmt: skip
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "published numbers are those of KD; with other methods, each term but the cross entropy is distillation here",
        "weight decay is part of the task's momentum alone, as in the authors' code; what the cross entropy does not "
        "reach, such as a head, has the protocol's momentum and weight decay",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: those of the authors' code for CIFAR-100."""

        base: Base = choice(load_base("kd"))
        """Method that is trained in this way; its settings are called NAME.SETTING, such as kd.temperature."""
        delta: float = fraction(0.075, search=linear(0.0, 0.095))
        """What distillation's momentum is above the protocol's, and the task's below."""

        def check(self) -> None:
            base = self.base
            if not base.method.READS.teacher:
                raise ValueError(f"base = {base.name} has no teacher: choose a method that distils")
            if len(base.method.term_groups(base.config)) > 1:
                raise ValueError(f"base = {base.name} has momenta of its own: choose a method that has none")

    @classmethod
    def reads(cls, config: Any, phase: PhaseName) -> Reads:
        return base_of(config).reads(config.base.config, phase)

    @classmethod
    def views(cls, config: Any) -> ViewPlan:
        return base_of(config).views(config.base.config)

    @classmethod
    def pretraining(cls, config: Any) -> float:
        return base_of(config).pretraining(config.base.config)

    @classmethod
    def surveys(cls, config: Any) -> frozenset[Part]:
        return base_of(config).surveys(config.base.config)

    @classmethod
    def term_groups(cls, config: Any) -> tuple[TermGroup, ...]:
        task = TermGroup(terms=frozenset({TASK}), momentum=-config.delta)
        return task, TermGroup(terms=None, momentum=config.delta, weight_decay="partial")

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        self.base = base_of(config)(config.base.config, setup)
        self.min_images = self.base.min_images

    def pretrain(self, student: Net) -> Pretraining:
        return self.base.pretrain(student)

    def survey(self, outputs: Callable[[Tensor], Iterable[Outputs]], labels: Tensor) -> Mapping[str, Tensor]:
        return {f"base.{name}": value for name, value in self.base.survey(outputs, labels).items()}

    def wrap(self, setup: Setup) -> Net:
        return self.base.wrap(setup)

    def loss(
        self, student: Outputs, teacher: Outputs, batch: Batch
    ) -> dict[str, Tensor] | tuple[dict[str, Tensor], Rows]:
        return self.base.loss(student, teacher, batch)

    def remember(self, rows: Rows) -> None:
        self.base.remember(rows)
