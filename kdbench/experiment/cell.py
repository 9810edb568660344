"""A cell: the unit of work, of identity and of results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbench.errors import UserError
from kdbench.experiment.identity import identity_hash, identity_text
from kdbench.experiment.pairs import JOIN, LOGITS, Pair, TeacherSpec
from kdbench.experiment.protocol import Protocol
from kdbench.experiment.registry import load_method
from kdbench.experiment.settings import Settings
from kdbench.utils.names import safe_name
from kdbench.utils.text import counted
from kdbench.utils.values import argument, whole_number

_SEED = "\0seed"


@dataclass(frozen=True, slots=True)
class TeacherRef:
    """Which teacher: an architecture and either the cell that trained it or the hash of the imported file.

    An ensemble has the networks and the ids of its members, joined in one order, whatever the order in which they were
    typed.
    """

    network: str
    id: str
    epochs: str = field(default="", compare=False)
    """Epochs it was trained for, where they are not the protocol's, for messages; see `TeacherSpec.epochs`."""

    @classmethod
    def joined(cls, members: Iterable[TeacherRef]) -> TeacherRef:
        """Return the ensemble of some teachers, or the one that there is.

        Raises
        ------
        UserError
            One is named twice.
        """
        ordered = sorted(members, key=lambda member: (member.network, member.id))
        if len({member.id for member in ordered}) < len(ordered):
            names = JOIN.join(member.spec for member in ordered)
            raise UserError(f"{names} names a teacher twice: an ensemble has each of its teachers once")
        named = TeacherSpec.joined(member.name for member in ordered)
        return cls(named.network, JOIN.join(member.id for member in ordered), named.epochs)

    @property
    def members(self) -> tuple[TeacherRef, ...]:
        """The teachers of an ensemble, or the one that this is."""
        parts = zip(self.name.members, self.ids, strict=True)
        return tuple(TeacherRef(member.network, each, member.epochs) for member, each in parts)

    @property
    def name(self) -> TeacherSpec:
        """What it is called where there is one teacher of its network and epochs."""
        return TeacherSpec(self.network, "", self.epochs)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of its members."""
        return tuple(self.id.split(JOIN))

    @property
    def is_file(self) -> bool:
        """Whether it is a file of logits."""
        return self.network.startswith(LOGITS)

    @property
    def is_network(self) -> bool:
        """Whether it is one network."""
        return len(self.ids) == 1 and not self.is_file

    @property
    def hash(self) -> str:
        """The identity without the kind in front."""
        return JOIN.join(member.partition(":")[2] for member in self.ids)

    @property
    def short(self) -> str:
        """The part of the identity that names it beside its network."""
        return JOIN.join(member.partition(":")[2][:8] for member in self.ids)

    @property
    def spec(self) -> str:
        """What to type on the command line to name it."""
        return str(TeacherSpec(self.network, self.short))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One (protocol, teacher, student, method, settings, seed)."""

    protocol: Protocol
    teacher: TeacherRef | None
    """None where the method reads nothing of a teacher."""
    student: str
    method: str
    method_version: int
    """See `kdbench.experiment.registry.method_version`."""
    settings: Settings
    seed: int
    init: str = ""
    """Hash of the weights that the student's training starts from; empty for fresh ones."""
    student_version: int | None = None
    """VERSION of a student that is a network of the user's."""
    names_epochs: bool = field(default=False, compare=False)
    """Whether its text names its epochs: those of other cells beside it are others."""

    @property
    def student_label(self) -> str:
        """The student as records and tables name it: ``NETWORK``, or ``NETWORK@HASH`` where it starts from weights."""
        return f"{self.student}@{self.init}" if self.init else self.student

    @property
    def teacher_ids(self) -> tuple[str, ...]:
        """Ids of its teacher's members; of none without a teacher."""
        return self.teacher.ids if self.teacher else ()

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the results, without paths, devices or worker counts."""
        teacher = {"network": self.teacher.network, "id": self.teacher.id} if self.teacher else {}
        settings = self.settings.values()
        version = {} if self.student_version is None else {"student_version": self.student_version}
        assert not {"name", "version"} & settings.keys(), f"a setting of {self.method} hides its name or version"
        return {
            "protocol": self.protocol.identity(),
            "teacher": teacher,
            "student": self.student_label,
            **version,
            "method": {"name": self.method, "version": self.method_version, **settings},
            "seed": self.seed,
        }

    @cached_property
    def id(self) -> str:
        """Hash of the identity, 64 hexadecimal digits."""
        return identity_hash(identity_text(self.identity()))

    @cached_property
    def epochs(self) -> range:
        """Numbers of its epochs in streams and views: 1 is the protocol's first, and pre-training ends with 0."""
        before = load_method(self.method).pretraining_epochs(self.settings.config, self.protocol.epochs)
        return range(1 - before, self.protocol.epochs + 1)

    def with_seeds(self, seeds: Iterable[int]) -> list[Cell]:
        """Return the same cell under other seeds.

        The identity is written once for all of them: 100,000 ids take 3 s, and one by one more than a minute.
        """
        before, after = identity_text(self.identity() | {"seed": _SEED}).split(json.dumps(_SEED))
        cells = [replace(self, seed=seed) for seed in seeds]
        for cell in cells:
            cell.__dict__["id"] = identity_hash(f"{before}{cell.seed}{after}")
        return cells

    @property
    def as_teacher(self) -> TeacherRef:
        """The teacher that its trained network becomes."""
        return TeacherRef(self.student, f"cell:{self.id}")

    def folder(self, runs: Path) -> Path:
        """Return the cell's folder below ``runs``."""
        teacher = self.teacher.network if self.teacher else "none"
        pair = f"{safe_name(teacher)}-{safe_name(self.student)}"
        # One step is several times as fast as four, of which a grid takes very many.
        return runs / f"{self.protocol.name}/{pair}/{self.method}/seed{self.seed}-{self.id[:8]}"

    def __str__(self) -> str:
        pair = Pair(self.teacher.name, self.student_label) if self.teacher else self.student_label
        chosen = "".join(f" {key}={value}" for key, value in self.settings.chosen.items())
        epochs = f" for {counted(self.protocol.epochs, 'epoch')}" if self.names_epochs else ""
        return f"{self.method}{chosen} {pair}{epochs} seed {self.seed}"


def by_teacher(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Sort cells by the id of their teacher, those without one under the empty text."""
    sorted_cells: dict[str, list[Cell]] = {}
    for cell in cells:
        sorted_cells.setdefault(cell.teacher.id if cell.teacher else "", []).append(cell)
    return sorted_cells


def lockstep_groups(cells: Sequence[Cell], together: int | None) -> list[list[Cell]]:
    """Group cells by seed and epochs, at most ``together`` in a group, in the order in which they were given."""
    groups: dict[tuple[int, int], list[Cell]] = {}
    for cell in {cell.id: cell for cell in cells}.values():
        groups.setdefault((cell.seed, cell.protocol.epochs), []).append(cell)
    if together is not None:
        with argument("--lockstep"):
            together = whole_number(together, 1)
    size = together or len(cells)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]
