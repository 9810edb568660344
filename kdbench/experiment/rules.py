"""Rules: all that decides results beside networks, method and seed, and the words that identify them.

A rule has two names: its place in a protocol's file (``[optimizer] learning_rate``) and its flat key in identities,
records and overrides (``learning_rate``). `PLACES` holds both; a rule that is missing there cannot be used.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from kdbench.errors import UserError
from kdbench.experiment.rule_groups import (
    AugmentationRules,
    DataRules,
    EvaluationRules,
    OptimizerRules,
    ScheduleRules,
    plain,
    require,
)
from kdbench.experiment.toml_tables import read_table
from kdbench.utils.precision import Precision
from kdbench.utils.values import shown


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
        require(self.precision in typing.get_args(Precision), "precision", "fp32, bf16 or fp16", shown(self.precision))
        require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)", self.label_smoothing)

    def values(self) -> dict[str, Any]:
        """Return every rule by its flat key, as plain values; None where a rule does not apply."""
        groups = {"": self} | {group: getattr(self, group) for group in _GROUPS}
        return {key: plain(getattr(groups[group], name)) for key, (group, name) in PLACES.items()}

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
            if key not in PLACES:
                raise ValueError(f"unknown rule {key!r}: known are {', '.join(PLACES)}")
            group, name = PLACES[key]
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
PLACES: dict[str, tuple[str, str]] = {
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
    "validation": ("evaluation", "validation"),
    "crop": ("augmentation", "crop"),
    "crop_size": ("augmentation", "size"),
    "crop_scale": ("augmentation", "scale"),
    "crop_ratio": ("augmentation", "ratio"),
    "interpolation": ("augmentation", "interpolation"),
    "evaluation_size": ("augmentation", "evaluation_size"),
    "pool": ("augmentation", "pool"),
    "group_size": ("schedule", "group_size"),
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
    "validation": 0.0,
    "crop": "pad",
    "group_size": None,
}
"""Rules that were added after results had been kept, with the value that means as before: no part of an identity."""


def read_rules(values: Mapping[str, Any], where: str) -> Rules:
    """Return the rules that a cell's identity holds, by their flat keys.

    Raises
    ------
    UserError
        A key is unknown or missing, or a value is of the wrong kind; the message begins with ``where``.
    """
    groups: dict[str, Any] = {}
    for key, value in values.items():
        if key not in PLACES:
            raise UserError(f"{where}: unknown rule {key!r}: a newer kdbench wrote it")
        group, name = PLACES[key]
        (groups.setdefault(group, {}) if group else groups)[name] = value
    return read_table(Rules, groups, where)
