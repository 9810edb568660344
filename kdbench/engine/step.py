"""One training step's forward pass, student and loss, as one module."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor, nn

from kdbench.data.batches import Batches
from kdbench.data.groups import Layout
from kdbench.engine.phase import Phase
from kdbench.engine.split import check_momenta
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.registry import load_method
from kdbench.method import Batch, Loss, Method, Rows, Setup
from kdbench.net import Net, Outputs
from kdbench.utils.device import autocast
from kdbench.utils.precision import Precision
from kdbench.utils.streams import seeded


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


def build_step(
    cell: Cell, student: Net, batches: Batches, teacher: Net | None, *, no_teacher: str = "", compiled: bool = False
) -> Step:
    """Build a cell's method around its student, from the method's own random stream.

    Parameters
    ----------
    no_teacher
        Why there is no network that teaches, where the method needs a teacher.

    Raises
    ------
    ValueError
        The method cannot work on these networks, or on batches of this size.
    """
    method_class, protocol = load_method(cell.method), cell.protocol
    setup = Setup(
        student=student,
        teacher=teacher,
        labels=batches.labels,
        epochs=protocol.epochs,
        steps_per_epoch=batches.steps,
        group_size=batches.schedule.images_together,
        **({"no_teacher": no_teacher} if no_teacher else {}),
    )
    with seeded(cell.seed, "init", "method"):
        method = method_class(cell.settings.config, setup)
        net = method.wrap(setup)
    check_momenta(protocol.rules.optimizer, method.term_groups(cell.settings.config))
    check_batches(method, batches.layout)
    return Step(net, method, protocol.precision, compiled=compiled)


def check_batches(method: Method, layout: Layout) -> None:
    """Raise ValueError where a group of an epoch has fewer images than a method can train on."""
    num_images, schedule = layout.num_images, layout.schedule
    if not layout.steps:
        raise ValueError(
            f"{num_images} images are no batch: it has {schedule.num_groups} groups, of two images each at least"
        )
    smallest = layout.smallest
    if smallest >= max(method.min_images, 1):
        return
    images = "one image" if smallest == 1 else f"{smallest} images"
    groups, last = schedule.num_groups, smallest < min(schedule.batch_size, num_images) // schedule.num_groups
    what, parts = ("a batch", "") if groups == 1 else ("a group", f", each of {groups} groups,")
    raise ValueError(
        f"the method cannot train on {what} of {images}, and an epoch of {num_images} images in batches of "
        f"{schedule.batch_size}{parts} has one: choose a batch size of at least {max(method.min_images, 1) * groups}"
        f"{', in the last batch of an epoch as well' if last else ''}"
    )


class StepObserver:
    """Sees each step of a run, and changes nothing; this one looks away."""

    def begins(self, batch: Batch, teacher: Outputs) -> None:
        """See what the loss is about to be given."""

    def computed(self, terms: Mapping[str, Tensor]) -> None:
        """See the terms of the loss, before the backward pass."""

    def ends(self, names: tuple[str, ...], values: Tensor) -> None:
        """See the names and values ``(num_terms,)`` of the terms after the update, also of a step that is replayed."""
