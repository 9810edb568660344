"""Rules: all that decides results beside networks, method and seed, in groups, and the words that identify them.

A rule has two names: its place in a protocol's file (``[optimizer] learning_rate``) and its flat key in identities,
records and overrides (``learning_rate``). `_PLACES` holds both; a rule that is missing there cannot be used.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, final

from kdbench.utils.precision import Precision
from kdbench.utils.values import shown

MAX_EPOCHS = 1_000_000
"""Far beyond any schedule; epochs are counted and enumerated."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataRules:
    """Which images, and how their values are normalised."""

    dataset: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        _require(min(self.std) > 0, "std", "> 0", self.std)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationRules:
    """How a training image is varied; rules for large images stand beside these."""

    pad: int
    """Zero pixels on each side before the random crop."""
    flip: bool
    """Whether images are mirrored with probability 1/2."""

    def __post_init__(self) -> None:
        _require(self.pad >= 0, "pad", ">= 0", self.pad)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerRules:
    """An optimiser of torch by name, and its settings."""

    name: Literal["SGD", "AdamW"] = "SGD"
    learning_rate: float
    """The highest one: schedules multiply it by a factor in [0, 1]."""
    network_learning_rate: dict[str, float] = field(default_factory=dict)
    """Students with a learning rate of their own."""
    weight_decay: float
    momentum: float | None = None
    """Of SGD."""
    nesterov: bool | None = None
    """Of SGD."""
    betas: tuple[float, float] | None = None
    """Of AdamW."""
    gradient_clip: float | None = None
    """Largest norm of the gradient of all trained parameters; a longer one is scaled down to it."""

    def __post_init__(self) -> None:
        for rate in (self.learning_rate, *self.network_learning_rate.values()):
            _require(rate > 0, "learning_rate", "> 0", rate)
        _require(self.weight_decay >= 0, "weight_decay", ">= 0", self.weight_decay)
        for key, optimizer in (("momentum", "SGD"), ("nesterov", "SGD"), ("betas", "AdamW")):
            _belongs(key, getattr(self, key), self.name, optimizer)
        if self.momentum is not None:
            _require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
            _require(self.momentum > 0 or not self.nesterov, "momentum", "> 0 with nesterov", self.momentum)
        for beta in self.betas or ():
            _require(0 <= beta < 1, "betas", "in [0, 1)", self.betas)
        if self.gradient_clip is not None:
            _require(self.gradient_clip > 0, "gradient_clip", "> 0", self.gradient_clip)

    def learning_rate_of(self, student: str) -> float:
        """Return the learning rate of a student before any schedule."""
        return self.network_learning_rate.get(student, self.learning_rate)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRules:
    """Length of training, and how the learning rate changes during it, in fractions of training.

    A step schedule acts per epoch; a warm-up and a cosine act per step.
    """

    name: Literal["step", "cosine"] = "step"
    epochs: int
    batch_size: int
    milestones: tuple[float, ...] | None = None
    """Of the step schedule: fractions of training after which the learning rate is multiplied by ``decay``."""
    decay: float = 0.1
    """Factor at a milestone, of pre-training too, whatever the schedule is called."""
    warmup: float = 0.0
    """Fraction of training in which the learning rate rises linearly to where the schedule begins."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        _require(self.epochs <= MAX_EPOCHS, "epochs", f"at most {MAX_EPOCHS}", shown(self.epochs))
        _require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        _belongs("milestones", self.milestones, self.name, "step")
        for milestone in self.milestones or ():
            _require(0 <= milestone <= 1, "milestones", "in [0, 1]", self.milestones)
        _require(0 < self.decay <= 1, "decay", "in (0, 1]", self.decay)
        _require(0 <= self.warmup < 1, "warmup", "in [0, 1)", self.warmup)

    @property
    def per_step(self) -> bool:
        """Whether the learning rate changes within an epoch."""
        return self.name == "cosine" or self.warmup > 0

    def factor(self, epoch: int, step: int, steps: int) -> float:
        """Return what the learning rate is multiplied by in a step; a pure function of the place in training.

        Parameters
        ----------
        epoch
            From 1.
        step
            Of this epoch, from 0.
        steps
            Of an epoch.
        """
        factor = 1.0
        done, total = (epoch - 1) * steps + step, self.epochs * steps
        rising = round(self.warmup * total)
        if self.name == "cosine":
            part = max(0, done - rising) / max(1, total - rising)
            factor = (1 + math.cos(math.pi * part)) / 2
        else:
            factor = self.decay ** sum(epoch > fraction * self.epochs for fraction in self.milestones or ())
        return factor * (done + 1) / rising if done < rising else factor


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRules:
    """What is reported."""

    epoch: Literal["last"] = "last"
    """The epoch whose accuracy is the result."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All that decides results beside networks, method and seed."""

    version: int
    """Raised when results change."""
    precision: Precision
    """Of the forward pass."""
    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the targets of the cross entropy with labels."""
    data: DataRules
    augmentation: AugmentationRules
    optimizer: OptimizerRules
    schedule: ScheduleRules
    evaluation: EvaluationRules = field(default_factory=EvaluationRules)

    def __post_init__(self) -> None:
        _require(self.precision in typing.get_args(Precision), "precision", "fp32, bf16 or fp16", shown(self.precision))
        _require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)

    def values(self) -> dict[str, Any]:
        """Return every rule by its flat key, as plain values; None where a rule does not apply."""
        groups = {"": self} | {group: getattr(self, group) for group in _GROUPS}
        return {key: _plain(getattr(groups[group], name)) for key, (group, name) in _PLACES.items()}

    def identity(self) -> dict[str, Any]:
        """Return the rules as a cell's identity holds them: without those that do not apply or mean "as before"."""
        return {
            key: value
            for key, value in self.values().items()
            if value is not None and not (key in _BEFORE and value == _BEFORE[key])
        }

    def replace(self, **changes: Any) -> Rules:
        """Return the rules with other values, by their flat keys.

        Raises
        ------
        ValueError
            There is no such rule, or a value is out of range.
        """
        groups: dict[str, dict[str, Any]] = {}
        for key, value in changes.items():
            if key not in _PLACES:
                raise ValueError(f"unknown rule {key!r}: known are {', '.join(_PLACES)}")
            group, name = _PLACES[key]
            groups.setdefault(group, {})[name] = value
        own = groups.pop("", {})
        changed = {group: dataclasses.replace(getattr(self, group), **values) for group, values in groups.items()}
        return dataclasses.replace(self, **own, **changed)


_GROUPS: dict[str, type] = {
    "data": DataRules,
    "augmentation": AugmentationRules,
    "optimizer": OptimizerRules,
    "schedule": ScheduleRules,
    "evaluation": EvaluationRules,
}
_PLACES: dict[str, tuple[str, str]] = {
    "version": ("", "version"),
    "dataset": ("data", "dataset"),
    "mean": ("data", "mean"),
    "std": ("data", "std"),
    "pad": ("augmentation", "pad"),
    "flip": ("augmentation", "flip"),
    "epochs": ("schedule", "epochs"),
    "batch_size": ("schedule", "batch_size"),
    "learning_rate": ("optimizer", "learning_rate"),
    "network_learning_rate": ("optimizer", "network_learning_rate"),
    "momentum": ("optimizer", "momentum"),
    "weight_decay": ("optimizer", "weight_decay"),
    "nesterov": ("optimizer", "nesterov"),
    "milestones": ("schedule", "milestones"),
    "decay": ("schedule", "decay"),
    "precision": ("", "precision"),
    "optimizer": ("optimizer", "name"),
    "betas": ("optimizer", "betas"),
    "gradient_clip": ("optimizer", "gradient_clip"),
    "schedule": ("schedule", "name"),
    "warmup": ("schedule", "warmup"),
    "label_smoothing": ("", "label_smoothing"),
    "reported_epoch": ("evaluation", "epoch"),
}
"""Flat key of each rule, with its group and its name there. Keys are never renamed: cells on disk have them."""
_BEFORE: dict[str, Any] = {
    "optimizer": "SGD",
    "betas": None,
    "gradient_clip": None,
    "schedule": "step",
    "warmup": 0.0,
    "label_smoothing": 0.0,
    "reported_epoch": "last",
}
"""Rules that were added after results had been kept, with the value that means as before: no part of an identity."""


def _require(holds: bool, key: str, words: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{key} must be {words}, not {_plain(value)}")


def _belongs(key: str, value: Any, name: str, owner: str) -> None:
    """Raise ValueError if a rule of one optimiser or schedule is missing, or given for another one."""
    if value is None and name == owner:
        raise ValueError(f"{key} is missing: {owner} needs it")
    if value is not None and name != owner:
        raise ValueError(f"{key} is a rule of {owner}, not of {name}")


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
