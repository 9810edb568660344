"""Grids: pairs x methods x seeds, written in a TOML file, and the teachers that they need."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell, TeacherRef
from kdbench.experiment.pairs import Pair, TeacherSpec
from kdbench.grid.file import GridFile, about, read_grid
from kdbench.teachers.cards import TeacherCard, find_teacher, list_teachers


@dataclass(frozen=True, slots=True)
class GridTeacher:
    """A teacher of a grid: one that is there, or one that a cell of the grid will train."""

    ref: TeacherRef
    card: TeacherCard | None
    cell: Cell | None
    """Trains it; None where it is there."""


@final
class Grid:
    """The cells that a file means, and their teachers."""

    def __init__(self, file: GridFile, session: Session) -> None:
        self.file, self.session = file, session
        self.teachers: dict[str, GridTeacher] = {}
        """By the id of their ``TeacherRef``."""
        self.by_row: dict[tuple[Pair, str], list[Cell]] = {}
        """The cells of each pair and method; a student alone is in the row of each of its teachers."""
        refs = {spec: self._teacher(spec) for spec in dict.fromkeys(pair.teacher for pair in file.pairs)}
        for pair, method in itertools.product(file.pairs, file.methods):
            self.by_row[pair, method] = self._row(method, refs[pair.teacher], pair.student)
        self.cells = tuple({cell.id: cell for row in self.by_row.values() for cell in row}.values())
        needed = {cell.teacher.id for cell in self.cells if cell.teacher}
        self.teachers = {key: teacher for key, teacher in self.teachers.items() if key in needed}

    @classmethod
    def open(cls, path: Path, **session: Any) -> Grid:
        """Read a grid's file and resolve all that it names.

        Parameters
        ----------
        **session
            ``runs``, ``data``, ``device`` and so on, as :meth:`Session.open` takes them; what decides results is in
            the file.

        Raises
        ------
        UserError
            Something in the file is unknown or there twice, or a teacher is ambiguous.
        """
        file = read_grid(path)
        data = session.pop("data", None) or file.data or "data"
        opened = Session.open(file.protocol, data=data, epochs=file.epochs, precision=file.precision, **session)
        return cls(file, opened)

    @property
    def to_train(self) -> tuple[Cell, ...]:
        """The cells that train the teachers that are not there."""
        return tuple(teacher.cell for teacher in self.teachers.values() if teacher.cell)

    def _teacher(self, spec: TeacherSpec) -> TeacherRef:
        session, network = self.session, spec.network
        cell = session.teacher_cell(network)
        own = cell.as_teacher
        card: TeacherCard | None
        with about(self.file.path, "pairs", str(spec)):
            if spec.hash:
                card = find_teacher(session.runs, session.protocol, spec, network)
            else:
                # One that was trained under other rules, for fewer epochs say, is meant only if it is named.
                cards = [
                    card
                    for card in list_teachers(session.runs, session.protocol.name)
                    if card.network == network and card.dataset == session.protocol.dataset
                    if card.ref == own or card.imported
                ]
                if len(cards) > 1:
                    choices = ", ".join(f"{c.spec} ({c.accuracy:.2f} %, {c.origin})" for c in cards)
                    raise UserError(f"there are {len(cards)} such teachers: write which, {choices}")
                card = cards[0] if cards else None
        teacher = GridTeacher(card.ref, card, None) if card else GridTeacher(own, None, cell)
        self.teachers[teacher.ref.id] = teacher
        return teacher.ref

    def _row(self, method: str, teacher: TeacherRef, student: str) -> list[Cell]:
        settings = self.file.settings.get(method, {})
        row = []
        for values in itertools.product(*settings.values()):
            chosen = dict(zip(settings, values, strict=True))
            with about(self.file.path, f"[method.{method}]", chosen):
                first = self.session.cell(
                    method=method, teacher=teacher, student=student, seed=self.file.seeds[0], settings=chosen
                )
            row += first.with_seeds(self.file.seeds)
        return row
