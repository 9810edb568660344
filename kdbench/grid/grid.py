"""Grids: pairs x methods x seeds, written in a TOML file, and the teachers that they need."""

from __future__ import annotations

import contextlib
import itertools
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final, get_args

from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell, TeacherRef
from kdbench.experiment.protocol import Precision, named_pairs, protocol_names
from kdbench.experiment.settings import method_names
from kdbench.models import NETWORKS, parse_pair
from kdbench.teachers.cards import TeacherCard, find_teacher, list_teachers
from kdbench.utils.names import find_name

_KEYS = ("protocol", "pairs", "methods", "seeds", "epochs", "precision", "data", "method")
_EXAMPLE = 'pairs = ["ResNet50>MobileNetV2"]'


@dataclass(frozen=True, slots=True, kw_only=True)
class GridFile:
    """What a grid's file says, with the one spelling of every name."""

    path: Path
    protocol: str
    pairs: tuple[str, ...]
    """``TEACHER>STUDENT`` or ``TEACHER@HASH>STUDENT``."""
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: dict[str, dict[str, tuple[Any, ...]]]
    """For each method, its settings in this grid; every combination of their values is tried."""
    epochs: int | None = None
    precision: str | None = None
    data: str | None = None

    @property
    def name(self) -> str:
        """What the grid is called."""
        return self.path.stem


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
        self.by_row: dict[tuple[str, str], list[Cell]] = {}
        """The cells of each pair and method; a student alone is in the row of each of its teachers."""
        refs = {word: self._teacher(word) for word in dict.fromkeys(pair.partition(">")[0] for pair in file.pairs)}
        for pair, method in itertools.product(file.pairs, file.methods):
            teacher, _, student = pair.partition(">")
            self.by_row[pair, method] = self._row(method, refs[teacher], student)
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

    def _teacher(self, word: str) -> TeacherRef:
        session = self.session
        network, mark, _ = word.partition("@")
        cell = session.teacher_cell(network)
        own = cell.taught
        card: TeacherCard | None
        with _about(self.file.path, "pairs", word):
            if mark:
                card = find_teacher(session.runs, session.protocol, word, network)
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
            with _about(self.file.path, f"[method.{method}]", chosen):
                first = self.session.cell(
                    method=method, teacher=teacher, student=student, seed=self.file.seeds[0], settings=chosen
                )
            row += first.with_seeds(self.file.seeds)
        return row


def read_grid(path: Path) -> GridFile:
    """Read a grid's file.

    Raises
    ------
    UserError
        It is not there, is no TOML, or holds something unknown, missing, double or of the wrong kind: the text names
        the line's content and what is known.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: README.md, 'A grid', shows one to begin with") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name the grid's file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    for key, value in values.items():
        with _about(path, key, value):
            find_exactly("key", key, _KEYS)
    for key in ("protocol", "pairs", "methods", "seeds"):
        if key not in values:
            raise UserError(f"{path} has no line {key!r}: {', '.join(_KEYS[:4])} are needed, e.g. {_EXAMPLE}")
    with _about(path, "protocol", values["protocol"]):
        protocol = _named("protocol", _typed(values["protocol"], str, "the name of a protocol"), protocol_names())
    with _about(path, "methods", values["methods"]):
        names = _listed(values["methods"], "names of methods")
        methods = _once("method", [_named("method", name, method_names()) for name in names])
    with _about(path, "pairs", values["pairs"]):
        pairs = _once("pair", list(_pairs(_listed(values["pairs"], "pairs 'TEACHER>STUDENT' or names of sets"))))
    with _about(path, "seeds", values["seeds"]):
        seeds = _seeds(values["seeds"])
    settings: dict[str, dict[str, tuple[Any, ...]]] = {}
    for name, table in _typed(values.get("method", {}), dict, "tables [method.NAME]").items():
        with _about(path, f"[method.{name}]", table):
            method = _named("method", name, methods, "of this grid")
            settings[method] = _settings(_typed(table, dict, "a table of settings"))
    with _about(path, "epochs", values.get("epochs")):
        epochs = _typed(values.get("epochs"), int | None, "a whole number")
        if epochs is not None and epochs < 1:
            raise UserError("there must be at least 1")
    with _about(path, "precision", values.get("precision")):
        precision = _typed(values.get("precision"), str | None, "a word")
        if precision is not None:
            find_exactly("precision", precision, get_args(Precision))
    with _about(path, "data", values.get("data")):
        data = _typed(values.get("data"), str | None, "a folder, or npz:FILE")
    return GridFile(
        path=path,
        protocol=protocol,
        pairs=pairs,
        methods=methods,
        seeds=seeds,
        settings=settings,
        epochs=epochs,
        precision=precision,
        data=data,
    )


@contextlib.contextmanager
def _about(path: Path, key: str, value: Any) -> Iterator[None]:
    """Let errors name the line that they are about."""
    try:
        yield
    except UserError as error:
        line = f"{key} {json.dumps(value, default=str)}" if key.startswith("[") else f"{key} = {_shortened(value)}"
        raise UserError(f"{path}: {line}: {error}") from None


def _shortened(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."


def find_exactly(kind: str, word: str, known: Sequence[str]) -> None:
    """Refuse a word that is not one of those that are known."""
    if word not in known:
        raise UserError(f"unknown {kind} {word!r}: known are {', '.join(known)}")


def _named(kind: str, name: str, known: Sequence[str], where: str = "") -> str:
    return find_name(kind, name, known, f"known{f' {where}' if where else ''} are {', '.join(known)}")


def _typed(value: Any, kind: Any, what: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"this must be {what}")
    return value


def _listed(value: Any, what: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise UserError(f"this must be a list of {what}")
    return value


def _once(kind: str, names: list[str]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{kind} {name} is there twice: its cells would be the same")
    return tuple(names)


def _pairs(words: list[str]) -> Iterator[str]:
    sets = named_pairs()
    for word in words:
        if word in sets:
            yield from sets[word].pairs
            continue
        teacher, arrow, student = word.partition(">")
        network, mark, short = teacher.partition("@")
        try:
            pair = parse_pair(f"{network}{arrow}{student}")
        except UserError as error:
            raise UserError(f"{error}; known are the sets {', '.join(sets)} and {', '.join(NETWORKS)}") from None
        known_teacher, _, known_student = pair.partition(">")
        yield f"{known_teacher}{mark}{short.strip()}>{known_student}"


def _seeds(value: Any) -> tuple[int, ...]:
    seeds = list(range(1, value + 1)) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError("this must be how many seeds there are, at least 1, or a list of seeds")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**31]:
        raise UserError(f"a seed must be between 0 and {2**31 - 1}, not {wrong[0]}")
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise UserError(f"seed {twice} is there twice: its cells would be the same")
    return tuple(seeds)


def _settings(table: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    settings = {}
    for key, value in table.items():
        values = tuple(value) if isinstance(value, list) else (value,)
        if not values or len({json.dumps(one, default=str) for one in values}) < len(values):
            raise UserError(f"{key} must be one value, or several that differ")
        settings[key] = values
    return settings
