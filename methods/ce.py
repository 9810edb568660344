"""CE: the student alone, trained by cross entropy.

The baseline of every table, and the way a teacher is trained. Its functions are shared by the other methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.method import Batch, Method
from kdbench.net import Outputs, Part


def at_least_float32(value: Tensor) -> Tensor:
    """Half and bfloat16 values as float32, wider ones as they are: losses are never computed in half precision."""
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def inner_products(rows: Tensor, others: Tensor) -> Tensor:
    """Inner products ``(A, C)`` of rows ``(A, D)`` and ``(C, D)`` in at least float32, under autocast too."""
    with torch.autocast(rows.device.type, enabled=False):
        return at_least_float32(rows) @ at_least_float32(others).T


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
