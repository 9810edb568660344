"""How a run diverged: where, with which values and what to try; what is said of it, and left in the cell's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.engine.phase import Phase
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import STATE
from kdbench.teachers.sources import TeacherSource
from kdbench.utils.checkpoint import state_names


class Diverged(UserError):
    """A loss or a weight became NaN or infinite; ``failure`` is what the cell leaves."""

    reason = "diverged"

    def __init__(self, text: str, failure: dict[str, Any]) -> None:
        super().__init__(text)
        self.failure = failure


def describe_divergence(
    cell: Cell,
    folder: Path,
    phase: Phase,
    epoch: int,
    step: int,
    values: Mapping[str, float],
    teacher: TeacherSource | None,
) -> Diverged:
    """Return the error that says where a cell diverged, and what to try.

    Parameters
    ----------
    folder
        The cell's.
    epoch, step
        From 1, of the phase and of the epoch.
    values
        Loss terms of the step, or metrics of the epoch.
    teacher
        Whose outputs are not finite there; None where they are, or the cell has no teacher.
    """
    terms = {name: f"{value:g}" for name, value in values.items()}
    listed = ", ".join(f"{name} = {value}" for name, value in terms.items())
    where = f"pre-training, epoch {epoch}," if phase.pretraining else f"epoch {epoch}"
    remedy = "try smaller loss weights with --set, or fp32"
    if teacher:
        remedy = (
            f"the outputs of its teacher {teacher.spec} are not finite there, so loss weights are "
            f"not the reason. Use fp32, or import or train the teacher again"
        )
    elif any((folder / name).exists() for name in state_names(STATE)):
        remedy = f"its last good state is kept in {folder}. {remedy.capitalize()}"
    return Diverged(
        f"{cell} failed: diverged in {where} at step {step} ({listed}); {remedy}",
        {"pretraining": phase.pretraining, "epoch": epoch, "step": step, "terms": terms},
    )
