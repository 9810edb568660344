"""Check all cells below a folder."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from kdbench.errors import UserError
from kdbench.experiment.identity import identity_text
from kdbench.verify.files import file_findings, teacher_findings
from kdbench.verify.findings import Finding
from kdbench.verify.measuring import Measuring
from kdbench.verify.stored import Stored, StoredCell
from kdbench.verify.training import Training


@final
@dataclass(frozen=True, slots=True)
class Draw:
    """The cells that are trained again."""

    cells: Sequence[StoredCell]
    num_possible: int
    """Cells that they are drawn from."""
    reasons: Counter[str]
    """Why others cannot be trained again here, each with the number of cells."""


def check_files(stored: Stored) -> list[Finding]:
    """Check what the files of cells and teachers say of each other."""
    cards, records = stored.cards(), {cell.record["cell"]: cell.record for cell in stored.cells}
    findings = list(stored.findings)
    for cell in stored.cells:
        findings.extend(file_findings(cell, cards, records))
    for teacher in stored.teachers:
        findings.extend(teacher_findings(teacher))
    return findings


def measure(stored: Stored, measuring: Measuring, findings: Sequence[Finding]) -> list[Finding]:
    """Measure all weights that are here and have their hash; those of cells that are teachers once."""
    right = {each.subject for each in findings if each.check == "weights" and each.verdict == "same"}
    cells = sorted(stored.cells, key=lambda cell: identity_text(cell.record["config"]["protocol"]))
    trained = {f"cell:{cell.record['cell']}" for cell in cells if str(cell.folder) in right}
    measured = [measuring.cell(cell) for cell in cells if str(cell.folder) in right]
    measured += [
        measuring.teacher(teacher)
        for teacher in stored.teachers
        if str(teacher.folder) in right and teacher.card.id not in trained
    ]
    return [finding for finding in measured if finding]


def draw(stored: Stored, training: Training, number: int, seed: int) -> Draw:
    """Draw cells to train again from those that can be trained here; equal records and seed give equal cells.

    Raises
    ------
    UserError
        None can be.
    """
    possible, reasons = [], Counter[str]()
    for cell in sorted(stored.cells, key=lambda cell: str(cell.record["cell"])):
        try:
            training.prepare(cell.record)
            possible.append(cell)
        except UserError as error:
            reasons[str(error)] += 1
    if not possible:
        why = next(iter(reasons), "there is no whole record")
        raise UserError(f"--retrain {number}: no cell can be trained again here: {why}")
    drawn = random.Random(seed).sample(possible, min(number, len(possible)))  # noqa: S311 - no secret
    return Draw(drawn, len(possible), reasons)
