"""CE: the student alone, trained by cross entropy.

The baseline of every table, and the way a teacher is trained. Its functions are shared by the other methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.method import Batch, Method
from kdbench.net import Outputs, Part


def check_settings(
    config: object,
    *,
    non_negative: Sequence[str] = (),
    positive: Sequence[str] = (),
    fractions: Sequence[str] = (),
) -> None:
    """Raise ValueError for a numeric field of a config that is out of range; a fraction is in [0, 1]."""
    rules: tuple[tuple[Sequence[str], str, Callable[[float], bool]], ...] = (
        (non_negative, ">= 0", lambda value: value >= 0),
        (positive, "> 0", lambda value: value > 0),
        (fractions, "in [0, 1]", lambda value: 0 <= value <= 1),
    )
    for names, words, holds in rules:
        for name in names:
            if not holds(getattr(config, name)):
                raise ValueError(f"{name} must be {words}, not {getattr(config, name)}")


def at_least_float32(value: Tensor) -> Tensor:
    """Half and bfloat16 values as float32, wider ones as they are: losses are never computed in half precision."""
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def inner_products(rows: Tensor, others: Tensor) -> Tensor:
    """Inner products ``(..., A, C)`` of rows ``(..., A, D)`` and ``(..., C, D)``; at least float32, in autocast too."""
    with torch.autocast(rows.device.type, enabled=False):
        return at_least_float32(rows) @ at_least_float32(others).mT


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of each image in nats, ``(B,)``, from logits ``(B, K)`` and class numbers ``(B,)``."""
    return functional.cross_entropy(at_least_float32(logits), targets, reduction="none")


@final
class CE(Method):
    """Cross entropy alone; no teacher."""

    FAMILY = "none"
    teacher_reads: ClassVar[frozenset[Part]] = frozenset()

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """There is nothing to set."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the mean cross entropy of the plain view."""
        return {"ce": cross_entropy(student.logits, batch.targets).mean()}


METHOD = CE
