"""Protocols: the training rules that all methods share, named and versioned."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any, get_args

from kdbench.errors import UserError
from kdbench.utils.names import find_name
from kdbench.utils.precision import Precision

_FOLDER = resources.files("kdbench.experiment") / "protocols"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The rules of training and reporting. Everything here but the texts and ``accuracy`` decides results."""

    name: str
    title: str
    source: str
    version: int
    """Raised when results change."""
    dataset: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pad: int
    """Zero pixels on each side before the random crop."""
    flip: bool
    """Whether images are mirrored with probability 1/2."""
    epochs: int
    batch_size: int
    learning_rate: float
    network_learning_rate: dict[str, float]
    """Students with a learning rate of their own."""
    momentum: float
    weight_decay: float
    nesterov: bool
    milestones: tuple[float, ...]
    """Fractions of training after which the learning rate is multiplied by ``decay``."""
    decay: float
    precision: Precision
    alone: str
    """The method that trains a network without a teacher; it also trains the teachers."""
    try_pair: str
    """The pair that ``kdbench`` proposes to begin with."""
    try_methods: tuple[str, ...]
    try_seeds: tuple[int, ...]
    try_next: str = ""
    """The protocol to go on to after a first look with this one."""
    accuracy: dict[str, float]
    """Published test accuracies of networks trained alone, in percent; imported teachers are checked against them."""

    def rate(self, student: str, epoch: int) -> float:
        """Learning rate of a student in an epoch, counted from 1."""
        rate = self.network_learning_rate.get(student, self.learning_rate)
        return rate * self.decay ** sum(epoch > fraction * self.epochs for fraction in self.milestones)

    def identity(self) -> dict[str, Any]:
        """What decides results, as plain values."""
        texts = {"title", "source", "accuracy", "alone", "try_pair", "try_methods", "try_seeds", "try_next"}
        return {k: v for k, v in _plain(dataclasses.asdict(self)).items() if k not in texts}

    def override(self, **changes: Any) -> Protocol:
        """Return the protocol with other values; None means unchanged."""
        changed = dataclasses.replace(self, **{k: v for k, v in changes.items() if v is not None})
        if changed.epochs < 1:
            raise UserError(f"--epochs must be at least 1, not {changed.epochs}")
        return changed

    def overrides(self) -> dict[str, Any]:
        """The values that differ from the named protocol, by name."""
        named = load_protocol(self.name).identity()
        return {k: v for k, v in self.identity().items() if named[k] != v}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def protocol_names() -> list[str]:
    """Names of all protocols."""
    return sorted(f.name.removesuffix(".toml") for f in _FOLDER.iterdir() if f.name.endswith(".toml"))


def load_protocol(name: str) -> Protocol:
    """Read a protocol by name, in any spelling."""
    name = find_name("protocol", name, protocol_names(), "'kdbench list protocols' names all")
    values = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    merged: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    assert merged["precision"] in get_args(Precision), name
    return Protocol(name=name, **merged)
