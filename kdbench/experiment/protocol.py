"""Protocols: the training rules that all methods share, named and versioned."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from kdbench.errors import UserError
from kdbench.experiment.rules import Rules
from kdbench.experiment.toml_tables import read_table
from kdbench.utils.names import find_name
from kdbench.utils.precision import Precision
from kdbench.utils.reading import Unreadable, parse_toml
from kdbench.utils.values import argument, whole_number

_FOLDER = resources.files("kdbench.experiment") / "protocols"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A first look that a protocol proposes."""

    pair: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    next: str = ""
    """The protocol to continue with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Rules with a name, and what is said of them. Of a cell's results only ``name`` and ``rules`` are an identity."""

    name: str
    title: str
    source: str
    rules: Rules
    teacher_epochs: int | None = None
    """Epochs that teachers are trained for; None for as many as the students.

    It enters a student's identity by its teacher's own cell alone.
    """
    baseline: str
    """The method that trains a network without a teacher; it also trains the teachers."""
    demo: Demo
    accuracy: dict[str, float] = field(default_factory=dict)
    """Published test accuracies of baselines, in percent; imported teachers are checked against them."""

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.rules.data.dataset

    @property
    def epochs(self) -> int:
        """Epochs of a student, without pre-training."""
        return self.rules.schedule.epochs

    @property
    def batch_size(self) -> int:
        """Images of a training batch."""
        return self.rules.schedule.batch_size

    @property
    def precision(self) -> Precision:
        """Precision of the forward pass."""
        return self.rules.precision

    def identity(self) -> dict[str, Any]:
        """Return what decides results, as plain values by their flat keys."""
        return {"name": self.name, **self.rules.identity()}

    def override(self, **changes: Any) -> Protocol:
        """Return the protocol with other rules, by their flat keys; None means unchanged.

        ``epochs`` is the length of teachers too.

        Raises
        ------
        UserError
            There is no such rule, or a value is out of range.
        """
        given = {key: value for key, value in changes.items() if value is not None}
        if "epochs" in given:
            with argument("--epochs"):
                given["epochs"] = whole_number(given["epochs"], 1)
        try:
            rules = self.rules.replace(**given)
        except ValueError as error:
            raise UserError(f"protocol {self.name}: {error}") from None
        teacher_epochs = None if "epochs" in given else self.teacher_epochs
        return dataclasses.replace(self, rules=rules, teacher_epochs=teacher_epochs)

    def for_teachers(self) -> Protocol:
        """Return the protocol that teachers are trained under."""
        return self if self.teacher_epochs is None else self.override(epochs=self.teacher_epochs)

    def overrides(self) -> dict[str, Any]:
        """Return the rules that differ from those of the named protocol, by their flat keys."""
        named = load_protocol(self.name).rules.values()
        return {key: value for key, value in self.rules.values().items() if named[key] != value}


def protocol_names() -> list[str]:
    """Names of all protocols."""
    return sorted(f.name.removesuffix(".toml") for f in _FOLDER.iterdir() if f.name.endswith(".toml"))


def load_protocol(name: str) -> Protocol:
    """Read a protocol by name, in any spelling."""
    name = find_name("protocol", name, protocol_names(), "'kdbench list protocols' names all")
    file = _FOLDER / f"{name}.toml"
    return read_protocol(name, file.read_text(encoding="utf-8"), str(file))


@dataclass(frozen=True, slots=True, kw_only=True)
class _TeacherTable:
    """Table ``[teacher]`` of a protocol's file."""

    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, not {self.epochs}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    """What a protocol's file holds beside its rules."""

    title: str
    source: str
    baseline: str
    teacher: _TeacherTable = field(default_factory=_TeacherTable)
    demo: Demo
    accuracy: dict[str, float] = field(default_factory=dict)


def read_protocol(name: str, text: str, where: str) -> Protocol:
    """Make a protocol of the text of its file.

    Raises
    ------
    UserError
        The text is not TOML, a key is unknown or missing, or a value is of the wrong kind or out of range; the message
        begins with ``where``.
    """
    try:
        values = parse_toml(text)
    except Unreadable as error:
        raise UserError(f"{where} {error}") from None
    rules, about = ([f.name for f in dataclasses.fields(kind)] for kind in (Rules, _About))
    for key in values:
        if key not in {*rules, *about}:
            raise UserError(f"{where}: unknown key {key!r}: known are {', '.join((*about, *rules))}")
    described = read_table(_About, {key: value for key, value in values.items() if key in about}, where)
    return Protocol(
        name=name,
        title=described.title,
        source=described.source,
        rules=read_table(Rules, {key: value for key, value in values.items() if key in rules}, where),
        teacher_epochs=described.teacher.epochs,
        baseline=described.baseline,
        demo=described.demo,
        accuracy=described.accuracy,
    )
