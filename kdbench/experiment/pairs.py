"""Teacher>student pairs, how they are written, and their named sets."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Self, final

from kdbench.errors import UserError

LOGITS = "logits:"
"""What the name of a teacher begins with that is a file of logits, where others have the name of their network."""
JOIN = "+"
"""Stands between the members of an ensemble: in their names, their hashes and their ids."""


_EPOCHS = re.compile(r"(?P<network>.+):\s*(?P<epochs>[0-9]{1,9})")


@final
@dataclass(frozen=True, slots=True, order=True)
class TeacherSpec:
    """Which teacher is meant: ``NETWORK``, ``NETWORK@HASH`` where a network has several, or an ensemble of such.

    ``NETWORK:EPOCHS`` is one that was trained for so many epochs, in a schedule of that length; 0 stands for random
    weights. A file of logits has ``logits:NAME`` in place of a network.
    """

    network: str
    """Those of the members of an ensemble, joined."""
    hash: str = ""
    """The first digits of its cell's id or of its file's hash; empty for the only one. Those of members are joined."""
    epochs: str = ""
    """Epochs it was trained for; empty for the protocol's. Those of members are joined."""

    @classmethod
    def parse(cls, text: str) -> TeacherSpec:
        """Read ``NETWORK``, ``NETWORK:EPOCHS``, either with ``@HASH``, or several of them joined by ``+``.

        Raises
        ------
        UserError
            It names no network.
        """
        parts = [[word.strip() for word in part.partition("@")] for part in text.split(JOIN)]
        if not all(network for network, _, _ in parts):
            raise UserError(
                f"{text!r} names no teacher: type NETWORK, NETWORK@HASH if there are several, NETWORK:EPOCHS for one "
                f"trained for other epochs than the protocol's, or an ensemble NETWORK{JOIN}NETWORK"
            )
        return cls.joined(cls._of(network, digits) for network, _, digits in parts)

    @classmethod
    def _of(cls, name: str, digits: str) -> TeacherSpec:
        match = _EPOCHS.fullmatch(name)
        if match is None or name.startswith(LOGITS):
            return cls(name, digits)
        return cls(match["network"].strip(), digits, str(int(match["epochs"])))

    @classmethod
    def joined(cls, members: Iterable[TeacherSpec]) -> Self:
        """Return the ensemble of some teachers, or the one that there is."""
        members = tuple(members)
        columns = zip(*((member.network, member.hash, member.epochs) for member in members), strict=True)
        return cls(*(JOIN.join(values) if any(values) else "" for values in columns))

    @property
    def members(self) -> tuple[TeacherSpec, ...]:
        """The teachers of an ensemble, or the one that this is."""
        networks = self.network.split(JOIN)
        others = [text.split(JOIN) if text else [""] * len(networks) for text in (self.hash, self.epochs)]
        return tuple(TeacherSpec(*member) for member in zip(networks, *others, strict=True))

    @property
    def num_epochs(self) -> int | None:
        """Epochs that one teacher was trained for; None for as many as the protocol gives its teachers."""
        return int(self.epochs) if self.epochs else None

    def spelled(self, spelling: Callable[[str], str]) -> TeacherSpec:
        """Return the same teacher with another spelling of its networks; files of logits keep their names."""
        return TeacherSpec.joined(
            member if member.network.startswith(LOGITS) else replace(member, network=spelling(member.network))
            for member in self.members
        )

    def __str__(self) -> str:
        if JOIN in self.network:
            return JOIN.join(map(str, self.members))
        return f"{self.network}{self.epochs and ':'}{self.epochs}{self.hash and '@'}{self.hash}"


def teacher_name(teacher: Mapping[str, Any]) -> str:
    """Return the name of a teacher in a record: its network, with epochs that are not those of its protocol."""
    members = teacher.get("members", [teacher])
    return str(TeacherSpec.joined(TeacherSpec(m["network"], "", str(m.get("epochs", ""))) for m in members))


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
        """Read ``TEACHER>STUDENT``, the teacher as `TeacherSpec.parse` does; names are taken as they are spelled.

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
    """Return the pairs of all sets, in the order of the first set that has them."""
    return list(dict.fromkeys(pair for members in named_pairs().values() for pair in members.pairs))
