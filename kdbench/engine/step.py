"""One training step's forward pass, student and loss, as one module."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor, nn

from kdbench.engine.phase import Phase
from kdbench.errors import UserError
from kdbench.method import Batch, Loss, Method, Rows
from kdbench.net import Net, Outputs
from kdbench.utils.device import autocast
from kdbench.utils.precision import Precision


@final
class Step(nn.Module):
    """Forward pass of the student and the method's loss: what a CUDA graph records, and what runs on a group of images.

    It owns all that is trained, so whatever has to see every parameter takes this module.

    Parameters
    ----------
    student
        The network that is trained: the student itself, or what the method made of it.
    precision
        Of the forward pass; losses are float32 all the same.
    compiled
        Whether to compile the student.
    """

    def __init__(self, student: Net, method: Method, precision: Precision = "fp32", *, compiled: bool = False) -> None:
        super().__init__()
        self.student, self.method = student, method
        self._precision: Precision = precision
        # A function, not a module: the student stands in this module once.
        self._compiled: Callable[..., Outputs] | None = (
            torch.compile(student.forward, dynamic=False) if compiled else None
        )

    def forward(self, phase: Phase, batch: Batch, teacher: Outputs) -> tuple[dict[str, Tensor], Rows]:
        """Return the named, weighted scalar terms of the loss, and the rows that the method will remember.

        Parameters
        ----------
        batch
            Views ``(V*B, 3, H, W)`` of ``B`` images.
        teacher
            At least the parts that the phase needs, of these views.
        """
        reads = phase.reads.student
        with autocast(batch.images.device, self._precision):
            query = self._compiled or self.student
            student = query(batch.images, reads) if reads else Outputs("student")
            result = phase.loss(student, teacher.narrowed(phase.reads.teacher), batch)
        terms, rows = result if isinstance(result, tuple) else (result, {})
        check_terms(phase.loss, terms)
        return terms, rows


def check_terms(loss: Loss, terms: object) -> None:
    """Raise ``UserError`` that names the line unless a loss has returned a dict of tensors."""
    if not isinstance(terms, dict):
        what = f"a {type(terms).__name__}, not a dict of terms: name the terms, such as {{'kd': ...}}"
    else:
        values = {name: term for name, term in terms.items() if not isinstance(term, Tensor)}
        if not values:
            return
        name, term = next(iter(values.items()))
        what = f"a {type(term).__name__} as term {name!r}: return a tensor, without .item() or float()"
    function = inspect.unwrap(getattr(loss, "__func__", loss))
    code = function.__code__
    returns = [each.positions for each in dis.get_instructions(code) if each.opname.startswith("RETURN")]
    line = (returns[-1].lineno if returns and returns[-1] else None) or code.co_firstlineno
    raise UserError(f"{code.co_filename}, line {line}: {function.__name__}() returns {what}")


class StepObserver:
    """Sees each step of a run, and changes nothing; this one looks away."""

    def begins(self, batch: Batch, teacher: Outputs) -> None:
        """See what the loss is about to be given."""

    def computed(self, terms: Mapping[str, Tensor]) -> None:
        """See the terms of the loss, before the backward pass."""

    def ends(self, names: tuple[str, ...], values: Tensor) -> None:
        """See the names and values ``(num_terms,)`` of the terms after the update, also of a step that is replayed."""
