"""Cells that are run with their progress on the screen."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from kdbench.cli.options import console
from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.engine.session import Session
    from kdbench.experiment.cell import Cell
    from kdbench.teachers.cards import TeacherCard
    from kdbench.teachers.plan import CacheMode


def run_shown(
    session: Session, cells: list[Cell], *, cache: CacheMode = "auto", together: int | None = None
) -> list[dict[str, Any]]:
    """Run cells with their progress on the screen, and return their records.

    Raises
    ------
    UserError
        Some failed; the others are done.
    """
    from kdbench.engine.display import Display  # noqa: PLC0415
    from kdbench.experiment.folder import read_record  # noqa: PLC0415

    records = []
    with Display(console) as display:
        found = {cell.id for cell in cells if read_record(cell.folder(session.runs), cell)}
        outcomes = session.run_all(cells, display.observer, cache=cache, together=together, watch=display)
        for cell, outcome in zip(cells, outcomes, strict=True):
            if not isinstance(outcome, Exception):
                display.done(cell, outcome, found=cell.id in found)
                records.append(outcome)
    warn_of_changes(session, [cell for cell in cells if cell.id in found])
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    for failure in failures:
        if not isinstance(failure, UserError):
            raise failure
    if failures:
        raise UserError("\nkdbench: ".join(dict.fromkeys(map(str, failures))))
    return records


def warn_of_changes(session: Session, done: list[Cell]) -> None:
    """Say which of a user's methods have changed since records of these finished cells were made."""
    from kdbench.experiment.folder import RECORD  # noqa: PLC0415
    from kdbench.experiment.registry import method_source  # noqa: PLC0415
    from kdbench.utils.files import read_object  # noqa: PLC0415

    changed = Counter[str]()
    for cell in done:
        source = method_source(cell.method)
        if source.own:
            record = read_object(cell.folder(session.runs) / RECORD)
            changed[source.where] += source.changed_since(str(record.get("method_source", "")))
    for where, number in (+changed).items():
        what, again = ("this record was", "it") if number == 1 else (f"{number} of these records were", "them")
        console.print(f"{where} has changed since {what} made: raise VERSION in it to run {again} again", markup=False)


def train_teacher_shown(session: Session, network: str, seed: int) -> TeacherCard:
    """Train a teacher, or find it, with its progress on the screen."""
    run_shown(session, [session.teacher_cell(network, seed=seed)])
    return session.train_teacher(network, seed=seed)
