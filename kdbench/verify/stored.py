"""The finished cells and teachers below a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from kdbench.analysis.publishing.folder import LIST, flaws, is_published
from kdbench.analysis.records import folders_below
from kdbench.errors import UserError
from kdbench.experiment.folder import RECORD, WEIGHTS, parse_record
from kdbench.teachers.cards import CARD, TeacherCard, protocols_with_teachers, read_card, read_cards
from kdbench.utils.names import safe_name
from kdbench.utils.reading import Unreadable
from kdbench.verify.findings import Finding


@final
@dataclass(frozen=True, slots=True)
class StoredCell:
    """A finished cell on disk whose record can be read."""

    folder: Path
    record: Mapping[str, Any]
    weights: Path | None
    """File with its weights; None where there is none."""


@final
@dataclass(frozen=True, slots=True)
class StoredTeacher:
    """A teacher on disk whose card can be read."""

    folder: Path
    card: TeacherCard


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """What there is below a folder."""

    runs: Path
    others: Path | None
    """Folder of runs with weights and teachers that the first one lacks."""
    cells: list[StoredCell] = field(default_factory=list)
    teachers: list[StoredTeacher] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    """On the list of a published folder, and on records and cards that cannot be read."""

    @property
    def places(self) -> tuple[Path, ...]:
        """The folders in which weights and teachers are looked for, the first one first."""
        return (self.runs, self.others) if self.others else (self.runs,)

    def cards(self) -> dict[str, TeacherCard]:
        """Return the cards of all teachers that can be read, in both folders, by their ids."""
        cards: dict[str, TeacherCard] = {}
        for place in reversed(self.places):
            for protocol in protocols_with_teachers(place):
                cards |= {card.id: card for card in read_cards(place, protocol)[0]}
        return cards | {teacher.card.id: teacher.card for teacher in self.teachers}


def read_stored(runs: Path, others: Path | None) -> Stored:
    """Read the records and the teachers' cards below a folder.

    Raises
    ------
    UserError
        A folder does not exist or cannot be read, it has no finished cell, or two records are of one cell.
    """
    stored = Stored(runs, others)
    for folder in stored.places:
        if not folder.is_dir():
            raise UserError(f"the folder {folder} does not exist: name a folder of runs, or one that was published")
    if is_published(runs):
        found = [Finding(str(runs), "published files", "differs", flaw) for flaw in flaws(runs)]
        stored.findings.extend(found or [Finding(str(runs), "published files", "same", f"all that {LIST} lists")])
    problems: list[str] = []
    for text, names in folders_below(runs, problems):
        if RECORD in names:
            _read_cell(Path(text), stored)
        elif CARD in names:
            _read_teacher(Path(text), stored)
    if problems:
        raise UserError(problems[0])
    if not stored.cells and not any(finding.check == "record" for finding in stored.findings):
        raise UserError(f"no finished cells in {runs}: name a folder of runs, or one that 'kdbench publish' wrote")
    counts = Counter(cell.record["cell"] for cell in stored.cells)
    for name, number in counts.items():
        if number > 1:
            first, second, *_ = (cell.folder for cell in stored.cells if cell.record["cell"] == name)
            raise UserError(f"two records of one cell ({name[:8]}): {first} and {second}; move one of them away")
    return stored


def _read_cell(folder: Path, stored: Stored) -> None:
    try:
        record = parse_record(folder / RECORD)
    except Unreadable as error:
        stored.findings.append(Finding(str(folder), "record", "differs", f"{RECORD} {error}"))
        return
    files = [folder / WEIGHTS, *([stored.others / _place(record) / WEIGHTS] if stored.others else [])]
    stored.cells.append(StoredCell(folder, record, next(filter(Path.is_file, files), None)))


def _read_teacher(folder: Path, stored: Stored) -> None:
    try:
        stored.teachers.append(StoredTeacher(folder, read_card(folder / CARD)))
    except UserError as error:
        stored.findings.append(Finding(str(folder), "teacher", "differs", str(error)))


def _place(record: Mapping[str, Any]) -> Path:
    """Return a cell's folder below a folder of runs; no name leads out of it."""
    config = record["config"]
    networks = config["teacher"].get("network", "none"), config["student"].partition("@")[0]
    names = config["protocol"]["name"], "-".join(map(safe_name, networks)), config["method"]["name"]
    return Path(*map(safe_name, names), f"seed{config['seed']}-{record['cell'][:8]}")
