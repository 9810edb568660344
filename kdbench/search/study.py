"""A study: the trials of one method on one pair, the steps by which one of them is chosen, and their cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

from kdbench.config import value_of
from kdbench.experiment.cell import Cell
from kdbench.experiment.identity import identity_hash, identity_text
from kdbench.experiment.pairs import Pair
from kdbench.experiment.protocol import Protocol
from kdbench.experiment.settings import resolve_settings
from kdbench.search.files import BEST, CHOSEN, FOLDER, NUM_BEST, NUM_SEEDS
from kdbench.space import DIGITS, Searched
from kdbench.utils.names import safe_name

SHARE = 0.1
"""Share of the training images that trials hold out where the protocol holds none out."""
_SEEDS_APART = 10_000


def study_seeds(study: int) -> tuple[int, ...]:
    """Return the seeds of a study, counted from 1, which no run has that is compared: 10001 to 10003 of the first."""
    return tuple(_SEEDS_APART * study + number for number in range(1, NUM_SEEDS + 1))


@dataclass(frozen=True, slots=True)
class Point:
    """What a trial changes: settings of the method, and rules of the protocol by what they are multiplied with."""

    settings: dict[str, Any]
    multiples: dict[str, float]

    def __str__(self) -> str:
        words = [f"{key}={value}" for key, value in self.settings.items()]
        return " ".join([*words, *(f"{key}*{value:g}" for key, value in self.multiples.items())])


@dataclass(frozen=True, slots=True)
class Step:
    """A choice among trials: ``name`` is ``rung-2``, ``best`` or ``chosen``."""

    name: str
    rung: int
    """The rung by which it is made, from 0."""
    num_seeds: int
    """Seeds of each trial that are compared."""
    number: int
    """Trials that are taken."""


@final
@dataclass(frozen=True, kw_only=True)
class Study:
    """The trials of a method on one pair; trial 0 is the default.

    Two trials of the same settings, as spaces of few values have, are one.
    """

    number: int
    """From 1: a study of another number tries other settings."""
    default: Cell
    """The method's cell on the pair without changes, in the last rung; its protocol holds images out."""
    fixed: dict[str, Any]
    """Settings that all trials share, of those that the user chose."""
    space: dict[str, Searched]
    """The settings that are searched, and how."""
    rules: dict[str, Searched]
    """Rules that are searched, and what they are multiplied with."""
    points: tuple[Point, ...]
    """Those of trials 1, 2, ..."""
    rungs: tuple[int, ...]
    """Epochs of each rung."""

    @cached_property
    def id(self) -> str:
        """Hash of what decides the trials, all but their number."""
        identity = self.default.identity()
        del identity["seed"]
        spaces = {key: {name: str(each) for name, each in space.items()} for key, space in self.spaces.items()}
        described = {"cell": identity, "fixed": self.fixed, "rungs": self.rungs, "study": self.number, **spaces}
        return identity_hash(identity_text(described))

    @property
    def spaces(self) -> dict[str, dict[str, Searched]]:
        """What is searched, by the kind."""
        return {"space": self.space, "rules": self.rules}

    @property
    def pair(self) -> str:
        """The pair, or the student of a method without a teacher."""
        cell = self.default
        return str(Pair.of(cell.teacher.network, cell.student_label)) if cell.teacher else cell.student_label

    @property
    def num_trials(self) -> int:
        """Number of trials, the default among them."""
        return 1 + len(self.points)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of all trials, and those with which the best are run again."""
        return study_seeds(self.number)

    def folder(self, runs: Path) -> Path:
        """Return the folder of its file and its choices."""
        cell = self.default
        name = f"{cell.method}-{safe_name(cell.student)}-study{self.number}-{self.id[:8]}"
        return runs / cell.protocol.name / FOLDER / name

    @cached_property
    def trials(self) -> dict[int, Cell]:
        """The cell of each trial under the protocol as it is, by its number; without those that repeat one before."""
        cells: dict[str, int] = {}
        points = (Point({}, {}), *self.points)
        made = [self.apply(point, self.default) for point in points]
        for number, cell in enumerate(made):
            cells.setdefault(cell.id, number)
        return {number: made[number] for number in cells.values()}

    def apply(self, point: Point, target: Cell) -> Cell:
        """Return a cell of the method with other settings and rules, on this pair or on another one."""
        return replace(
            target,
            protocol=_multiplied(target.protocol, point.multiples),
            settings=resolve_settings(
                target.method,
                dataset=target.protocol.dataset,
                teacher=target.teacher.network if target.teacher else None,
                student=target.student,
                chosen=self.fixed | point.settings,
            ),
        )

    def final(self, trial: int, target: Cell) -> Cell:
        """Return the cell that trains what a trial had for a default cell, of this pair or of another one.

        What the settings are on this pair by default, they are on the other one as well.
        """
        config, default = self.trials[trial].settings.config, target.settings.config
        settings = {name: value_of(config, name) for name in self.space}
        changed = {name: value for name, value in settings.items() if value != value_of(default, name)}
        point = (Point({}, {}), *self.points)[trial]
        return self.apply(Point(changed, point.multiples), target)

    def described(self, trial: int) -> dict[str, dict[str, Any]]:
        """Return what is searched as a trial has it: settings of the method, and rules of the protocol."""
        cell = self.trials[trial]
        settings, optimizer = cell.settings.values(), cell.protocol.rules.optimizer
        return {
            # One that was added later is left out at its default, as in records.
            "settings": {name: settings[name] for name in self.space if name in settings},
            "rules": {name: getattr(optimizer, name) for name in self.rules},
        }

    def trial(self, number: int, rung: int, seed: int) -> Cell:
        """Return the cell of a trial in a rung."""
        cell = self.trials[number]
        return replace(cell, protocol=cell.protocol.override(epochs=self.rungs[rung]), seed=seed)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The choices in their order."""
        steps, number, last = [], len(self.trials), len(self.rungs) - 1
        for rung in range(1, len(self.rungs)):
            number = -(-number // 2)
            steps.append(Step(f"rung-{rung + 1}", rung - 1, 1, number))
        number = min(NUM_BEST, number)
        return (*steps, Step(BEST, last, 1, number), Step(CHOSEN, last, NUM_SEEDS if number > 1 else 1, 1))

    def cells(self, step: Step, trials: Sequence[int]) -> dict[int, list[Cell]]:
        """Return the cells by which a choice among trials is made."""
        seeds = self.seeds[: step.num_seeds]
        return {number: [self.trial(number, step.rung, seed) for seed in seeds] for number in trials}


def _multiplied(protocol: Protocol, multiples: dict[str, float]) -> Protocol:
    """Return the protocol with some of its rules multiplied; a learning rate, for all students."""
    optimizer = protocol.rules.optimizer
    changes: dict[str, Any] = {}
    for name, multiple in multiples.items():
        changes[name] = _rounded(getattr(optimizer, name) * multiple)
        if name == "learning_rate" and optimizer.network_learning_rate:
            rates = optimizer.network_learning_rate
            changes["network_learning_rate"] = {each: _rounded(rate * multiple) for each, rate in rates.items()}
    return protocol.override(**changes)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
