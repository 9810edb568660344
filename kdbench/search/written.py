"""Read what searches left below a folder of runs: all that tables say of them, without a grid's file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from kdbench.search.files import BEST, CHOSEN, read_values
from kdbench.utils.files import paths_in
from kdbench.utils.reading import Missing, Unreadable

CHOICE = re.compile(r"(\d+)-trials-([a-z0-9-]+)\.json")
"""Name of the file of a choice, with the number of trials and the step."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A trial in a choice."""

    trial: int
    cells: tuple[str, ...]
    """Ids of its cells, one a seed."""
    top1: tuple[float | None, ...]
    """Accuracies on the held-out images in percent; None of a cell that failed."""


@final
@dataclass(frozen=True, slots=True)
class WrittenStudy:
    """A study's file, and the choices among one number of its trials."""

    folder: Path
    method: str
    method_version: int
    pair: str
    teacher: str
    """Id of the teacher, empty without one."""
    student: str
    study: int
    used_on: frozenset[tuple[str, str]]
    """Ids of teachers and students on which the chosen settings are run: of this pair and, kept as they are, others."""
    protocol: dict[str, Any]
    fixed: dict[str, Any]
    space: dict[str, str]
    """What is searched, in words."""
    rules: dict[str, str]
    """Rules that are searched, and what they are multiplied with, in words."""
    rungs: tuple[int, ...]
    seeds: tuple[int, ...]
    points: tuple[dict[str, Any], ...]
    rule: str
    """How one of the trials is chosen, in words."""
    num_trials: int = 1
    """Trials of the largest search that has ended, else of that which has begun to choose; 1 before any choice."""
    choices: Mapping[str, tuple[Ranked, ...]] = field(default_factory=dict)
    """The ranking of each step, the best first."""
    settings: dict[str, Any] | None = None
    """The settings that were chosen, of those that are searched; None as long as none were."""
    chosen_rules: dict[str, float] = field(default_factory=dict)

    @property
    def trial_cells(self) -> frozenset[str]:
        """Ids of the cells of trials, of those that a choice was made of."""
        return frozenset(cell for ranking in self.choices.values() for each in ranking for cell in each.cells)

    @property
    def first_scores(self) -> dict[int, float | None]:
        """The accuracies of all trials in the first rung, by their numbers; empty before the first choice."""
        step = "rung-2" if len(self.rungs) > 1 else BEST
        return {each.trial: each.top1[0] for each in self.choices.get(step, ())}

    @property
    def optimism(self) -> float | None:
        """By how much the chosen trial was better when it was chosen for it than with further seeds, in points.

        None before there are further seeds.
        """
        chosen = self.choices.get(CHOSEN, ())
        if not chosen or len(chosen[0].top1) < 2 or None in chosen[0].top1:
            return None
        first, *others = (float(score or 0) for score in chosen[0].top1)
        return first - sum(others) / len(others)


def read_study(path: Path) -> WrittenStudy:
    """Read a study's file and the choices beside it.

    Raises
    ------
    Missing
        There is no such file, or a choice was deleted meanwhile.
    Unreadable
        It, or a choice, is damaged.
    """
    try:
        values = read_values(path)
        names = [each.name for each in paths_in(path.parent, "*.json") if CHOICE.fullmatch(each.name)]
        files = {name: read_values(path.parent / name) for name in names}
    except Missing as error:
        if not path.exists():
            raise
        raise Unreadable(f"is damaged ({error}): move its folder away") from None
    return study_of(path.parent, values, files)


def study_of(folder: Path, values: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> WrittenStudy:
    """Return the study of the values in its file, and of its choices by the names of their files.

    Raises
    ------
    Unreadable
        They are damaged.
    """
    try:
        choices = [(int(match[1]), match[2], text) for name, text in files.items() if (match := CHOICE.fullmatch(name))]
        # While more trials run, what was chosen among fewer stays.
        number = max(((step == CHOSEN, trials) for trials, step, _ in choices), default=(False, 1))[1]
        texts = {step: text for trials, step, text in choices if trials == number}
        chosen = texts.get(CHOSEN, {})
        return WrittenStudy(
            folder=folder,
            method=values["method"],
            method_version=values["method_version"],
            pair=values["pair"],
            teacher=values["teacher"],
            student=values["student"],
            study=values["study"],
            used_on=frozenset((teacher, student) for teacher, student in values["used_on"]),
            protocol=dict(values["protocol"]),
            fixed=dict(values["fixed"]),
            space=dict(values["space"]),
            rules=dict(values["rules"]),
            rungs=tuple(values["rungs"]),
            seeds=tuple(values["seeds"]),
            points=tuple(map(dict, values["points"])),
            rule=str(values["rule"]),
            num_trials=number,
            choices={name: tuple(map(_ranked, text["ranking"])) for name, text in texts.items()},
            settings=dict(chosen["settings"]) if chosen else None,
            chosen_rules=dict(chosen["rules"]) if chosen else {},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable(f"is damaged ({error}): move its folder away") from None


def joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the file of a study that two folders have, with the points and pairs of both; None if they contradict."""
    parts = {"points", "used_on"}
    shorter, longer = sorted((first["points"], second["points"]), key=len)
    if shorter != longer[: len(shorter)] or any(
        first.get(key) != second.get(key) for key in (first.keys() | second.keys()) - parts
    ):
        return None
    used_on = sorted({tuple(each) for each in (*first["used_on"], *second["used_on"])})
    return {**first, "points": longer, "used_on": list(map(list, used_on))}


def _ranked(values: Mapping[str, Any]) -> Ranked:
    top1 = tuple(None if score is None else float(score) for score in values["top1"])
    return Ranked(int(values["trial"]), tuple(map(str, values["cells"])), top1)
