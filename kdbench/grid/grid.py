"""Expand a grid (pairs x methods x seeds of a TOML file) into cells and the teachers that they need."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from kdbench.data.place import DataPlace
from kdbench.engine.inits import bring
from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell, TeacherRef
from kdbench.experiment.pairs import LOGITS, Pair, TeacherSpec
from kdbench.experiment.protocol import load_protocol
from kdbench.grid.file import GridFile, error_context, read_grid
from kdbench.grid.grid_search import GridSearch
from kdbench.search.slots import Slot
from kdbench.teachers.cards import TeacherCard, choices, find_teacher, teachers_of
from kdbench.utils.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class GridTeacher:
    """A teacher of a grid: one that exists, or one that a cell of the grid will train."""

    ref: TeacherRef
    card: TeacherCard | None
    """None where it does not exist yet."""
    cell: Cell | None
    """Trains it; None where it exists."""

    @property
    def side(self) -> int | None:
        """Side of its images, in pixels; None where it is the student's."""
        return self.card.image_size if self.card else None

    @property
    def sized(self) -> str:
        """Its network, with the size of its images if that is its own."""
        return f"{self.ref.network} at {self.side}" if self.side else self.ref.network


@final
class Grid:
    """The cells of a grid's file, and their teachers."""

    def __init__(self, file: GridFile, session: Session) -> None:
        self.file, self.session = file, session
        self.teachers: dict[str, GridTeacher] = {}
        """By their id; the members of an ensemble each by its own."""
        self.by_row: dict[tuple[Pair, str], list[Cell]] = {}
        """Cells of each pair and method; a student-only cell is in the row of each of its teachers."""
        refs = {spec: self._teacher(spec) for spec in dict.fromkeys(pair.teacher for pair in file.pairs)}
        first: dict[tuple[str, str], Pair] = {}
        for pair in file.pairs:
            same = first.setdefault((refs[pair.teacher].id, pair.student), pair)
            if same is not pair:
                raise UserError(f"{file.path}: pairs: {same} and {pair} have the same teacher: keep one of them")
        self._inits: dict[str, str] = {}
        for student, weights in file.init.items():
            with error_context(file.path, "init", {student: weights}):
                self._inits[student], _ = bring(session, student, weights)
        for pair, method in itertools.product(file.pairs, file.methods):
            self.by_row[pair, method] = self._row(method, refs[pair.teacher], pair.student)
        self.search = GridSearch.of(file, session, self.by_row)
        # Trials come first: what is chosen waits for all of them.
        cells = [*self.search.cells, *(cell for row in self.by_row.values() for cell in row)]
        self.cells = tuple({cell.id: cell for cell in cells}.values())
        self.refresh()
        needed = {teacher for cell in self.cells for teacher in cell.teacher_ids}
        self.teachers = {key: teacher for key, teacher in self.teachers.items() if key in needed}

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        runs: str | Path = "runs",
        data: str | Path | None = None,
        download: bool = False,
        device: str | None = None,
        scheduler: Scheduler | None = None,
    ) -> Grid:
        """Read a grid's file and resolve its names.

        Parameters
        ----------
        runs, data, download, device, scheduler
            See :meth:`Session.open`; the file holds what decides results, and may hold ``data``.

        Raises
        ------
        UserError
            A name in the file is unknown or repeated, or a teacher is ambiguous.
        """
        file = read_grid(path)
        with error_context(path, "dataset", file.dataset):
            protocol = DataPlace().choose(load_protocol(file.protocol), file.dataset)
        if data is None:
            data = file.data
            with error_context(path, "data", data):
                DataPlace.parse(data).check(protocol.dataset, download=False)
        session = Session.open(
            file.protocol,
            runs=runs,
            data=data,
            dataset=file.dataset,
            epochs=file.epochs,
            precision=file.precision,
            device=device,
            download=download,
            scheduler=scheduler,
        )
        return cls(file, session)

    @property
    def to_train(self) -> tuple[Cell, ...]:
        """Return the cells that train the teachers that do not exist yet."""
        return tuple(teacher.cell for teacher in self.teachers.values() if teacher.cell)

    def refresh(self) -> tuple[Cell, ...]:
        """Look which further cells of a search are known by now; return those that are new."""
        known = {cell.id for cell in self.cells}
        new = tuple(cell for cell in self.search.refresh() if cell.id not in known)
        self.cells += new
        return new

    @property
    def waiting(self) -> list[Slot]:
        """The cells of a search that are not known yet."""
        return self.search.waiting

    @property
    def cell_ids(self) -> frozenset[str]:
        """Ids of its cells and of those that train its teachers, or trained them."""
        return frozenset({cell.id for cell in self.cells} | {teacher.ref.hash for teacher in self.teachers.values()})

    def networks(self, cell: Cell) -> list[GridTeacher]:
        """Return the networks that teach a cell: one, the members of an ensemble, or none."""
        members = [self.teachers[teacher] for teacher in cell.teacher_ids]
        return [member for member in members if not member.ref.is_file]

    def _teacher(self, spec: TeacherSpec) -> TeacherRef:
        with error_context(self.file.path, "pairs", str(spec)):
            return TeacherRef.joined(map(self._member, spec.members))

    def _member(self, spec: TeacherSpec) -> TeacherRef:
        session, network = self.session, spec.network
        if network.startswith(LOGITS):
            card = find_teacher(session.runs, session.protocol, spec, network)
            self.teachers[card.id] = GridTeacher(card.ref, card, None)
            return card.ref
        cell = session.teacher_cell(network, epochs=spec.num_epochs)
        trained = cell.as_teacher
        if spec.hash:
            cards = [find_teacher(session.runs, session.protocol, spec, network)]
        else:
            # A teacher of other rules, of fewer epochs say, is used only if it is named.
            cards = [
                card
                for card in teachers_of(session.runs, session.protocol, network)
                if card.ref == trained or (card.imported and not spec.epochs)
            ]
        if len(cards) > 1:
            raise UserError(f"{len(cards)} teachers match: write one of {choices(cards)}")
        ref = replace(cards[0].ref if cards else trained, epochs=spec.epochs)
        teacher = GridTeacher(ref, cards[0], None) if cards else GridTeacher(ref, None, cell)
        self.teachers[teacher.ref.id] = teacher
        return teacher.ref

    def _row(self, method: str, teacher: TeacherRef, student: str) -> list[Cell]:
        settings = self.file.settings.get(method, {})
        row = []
        for epochs, *values in itertools.product(self.file.epochs_of.get(method, (None,)), *settings.values()):
            chosen = dict(zip(settings, values, strict=True))
            with error_context(self.file.path, f"[method.{method}]", chosen):
                first = self.session.cell(
                    method=method,
                    teacher=teacher,
                    student=student,
                    seed=self.file.seeds[0],
                    settings=chosen,
                    init=self._inits.get(student, ""),
                )
            if self.file.search:  # what is compared was trained on all images
                first = replace(first, protocol=first.protocol.override(validation=0.0))
            if epochs and epochs != first.protocol.epochs:
                first = replace(first, protocol=first.protocol.override(epochs=epochs), names_epochs=True)
            row += first.with_seeds(self.file.seeds)
        return row
