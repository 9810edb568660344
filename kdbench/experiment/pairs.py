"""Teacher>student pairs, how they are written, and their named sets."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import final

from kdbench.errors import UserError


@final
@dataclass(frozen=True, slots=True, order=True)
class TeacherSpec:
    """Which teacher is meant: ``NETWORK``, or ``NETWORK@HASH`` where a network has several."""

    network: str
    hash: str = ""
    """The first digits of its cell's id or of its file's hash; empty for the only one."""

    @classmethod
    def parse(cls, text: str) -> TeacherSpec:
        """Read ``NETWORK`` or ``NETWORK@HASH``.

        Raises
        ------
        UserError
            It names no network.
        """
        network, _, digits = text.partition("@")
        if not network.strip():
            raise UserError(f"{text!r} names no teacher: type NETWORK, or NETWORK@HASH if there are several")
        return cls(network.strip(), digits.strip())

    def __str__(self) -> str:
        return f"{self.network}@{self.hash}" if self.hash else self.network


@final
@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """A teacher and the student that it is distilled into, written ``TEACHER>STUDENT``."""

    teacher: TeacherSpec
    student: str

    @classmethod
    def of(cls, teacher: str, student: str) -> Pair:
        """Return the pair of two networks."""
        return cls(TeacherSpec(teacher), student)

    @classmethod
    def parse(cls, text: str) -> Pair:
        """Read ``TEACHER>STUDENT`` or ``TEACHER@HASH>STUDENT``; names are taken as they are spelled.

        Raises
        ------
        UserError
            It is no pair.
        """
        teacher, arrow, student = text.partition(">")
        if not (teacher.strip() and arrow and student.strip()):
            raise UserError(
                f"{text!r} is no pair: type 'TEACHER>STUDENT' with the quotes, or a set of 'kdbench list pairs'"
            )
        return cls(TeacherSpec.parse(teacher), student.strip())

    @property
    def networks(self) -> Pair:
        """The pair of networks, whichever teacher of its network is meant."""
        return Pair.of(self.teacher.network, self.student)

    def __str__(self) -> str:
        return f"{self.teacher}>{self.student}"


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs that papers print together, and the protocol that lists the published accuracies of their networks."""

    protocol: str
    pairs: tuple[Pair, ...]


def named_pairs() -> dict[str, PairSet]:
    """Return the sets of pairs by name."""
    sets = tomllib.loads((resources.files("kdbench.experiment") / "pairs.toml").read_text(encoding="utf-8"))
    return {name: PairSet(entry["protocol"], tuple(map(Pair.parse, entry["pairs"]))) for name, entry in sets.items()}


def usual_pairs() -> list[Pair]:
    """Return the pairs of all sets, in the order of papers."""
    return [pair for members in named_pairs().values() for pair in members.pairs]
