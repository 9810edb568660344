"""Every check by its name: what must hold, and what to do if it does not.

``kdbench validate`` and the tests run this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, final

from kdbench.engine.checks import rules
from kdbench.engine.checks.watched import Watched

_FLOAT32 = (
    "Compute the loss in float32: call .float() on what it reads, and switch autocast off around matrix products."
)
Checked = TypeVar("Checked")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Generic[Checked]):
    """One thing that must hold for every method, or every network."""

    holds: Callable[[Checked], None]
    """Raises ``Broken`` if it does not, and ``Refused`` where a method says that it cannot work."""
    what: str
    """What must hold, as a sentence without its full stop."""
    remedy: str
    """What to do if it does not."""
    every_pair: bool = True
    """Whether it runs on every pair, or every size of images; otherwise it runs on the first one only."""


CHECKS: dict[str, Check[Watched]] = {
    "losses": Check(
        holds=rules.losses,
        what="Every term of the loss has a name and is finite",
        remedy="Return a dict of scalars; guard logarithms and divisions, or add a small number where the authors do.",
    ),
    "reads": Check(
        holds=rules.reads,
        what="What the loss reads is declared",
        remedy="Name it in READS, or where it depends on settings in reads(), and take it from what loss() is given.",
    ),
    "gradients": Check(
        holds=rules.gradients,
        what="Every trainable parameter gets a finite gradient",
        remedy="Use it in loss(), drop it, or make it a buffer; a .detach() or no_grad() may stand in the way.",
    ),
    "teacher": Check(
        holds=rules.teacher,
        what="The teacher and all that is given stay as they are",
        remedy="Work on copies, not with in-place operations, and register neither the teacher nor a part of it.",
    ),
    "memory": Check(
        holds=rules.memory,
        what="The loss changes nothing that the method keeps",
        remedy=(
            "Return what is to be kept beside the terms, and write it in remember(): loss() may see a batch in groups, "
            "on several devices."
        ),
    ),
    "state": Check(
        holds=rules.state,
        what="A saved state comes back the same",
        remedy="Keep state in parameters and buffers that state_dict() holds, of shapes that do not change.",
    ),
    "resume": Check(
        holds=rules.resume,
        what="An interrupted run ends as an undisturbed one",
        remedy=("Keep what lives between steps in buffers (register_buffer) or modules, not in attributes or globals."),
    ),
    "weights": Check(
        holds=rules.weights,
        what="The saved weights give the evaluated logits",
        remedy=(
            "Return from wrap() a network that holds all that it predicts with, such as an average of weights, among "
            "its own modules, and has it in its state_dict()."
        ),
    ),
    "repeat": Check(
        holds=rules.repeat,
        what="Two runs of one seed are equal",
        remedy="Draw random numbers with torch, in loss() with generator=batch.generator, and keep nothing in globals.",
    ),
    "processes": Check(
        holds=rules.processes,
        what="Two processes get the same",
        remedy="Do not depend on the order of a set, on hash(), id(), the time or the process.",
        every_pair=False,
    ),
    "seeds": Check(
        holds=rules.seeds,
        what="Another seed is another run",
        remedy="Do not seed random numbers or set the student's weights yourself.",
        every_pair=False,
    ),
    "paired": Check(
        holds=rules.paired,
        what="Student, order and views are those of all methods",
        remedy="Leave setup.student as it is; override wrap() if it must be another network.",
    ),
    "one image": Check(
        holds=rules.one_image,
        what="A batch of one image trains, or is refused with the reason",
        remedy="Do not divide by B - 1 or by a variance over the batch, or set self.min_images = 2 in __init__().",
        every_pair=False,
    ),
    "bf16": Check(
        holds=rules.bf16,
        what="Training in bfloat16 is finite, losses are in float32",
        remedy=_FLOAT32,
        every_pair=False,
    ),
    "fp16": Check(
        holds=rules.fp16,
        what="Training in float16 is finite, losses are in float32",
        remedy=_FLOAT32,
        every_pair=False,
    ),
    "no waiting": Check(
        holds=rules.no_waiting,
        what="No step waits for the device",
        remedy="No .item(), .tolist(), print, Python if on a tensor, boolean index or nonzero: use torch.where.",
    ),
    "in place": Check(
        holds=rules.in_place,
        what="State changes in place",
        remedy="Write into a buffer (copy_, lerp_, index_copy_) instead of assigning a new tensor to it.",
    ),
    "recipe": Check(
        holds=rules.recipe,
        what="The recipe file fits the settings",
        remedy=(
            "Mend the file that lies beside the method; 'kdbench show METHOD' lists settings, 'kdbench list "
            "pairs' pairs."
        ),
        every_pair=False,
    ),
}
"""Every check by its name, in order; ``no waiting`` comes after what looks at weights."""
