"""Searches of settings, each with the cells of its trials: what was tried, what it cost, and what was chosen."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, final

import pandas as pd

from kdbench.analysis.records import Records
from kdbench.analysis.searched import RATES
from kdbench.analysis.stats.best_of import expected_best
from kdbench.search.files import BEST, CHOSEN
from kdbench.search.written import WrittenStudy
from kdbench.space import DIGITS

FAILED_SCORE = 0.0
"""The accuracy that a failed trial counts with in an expected best."""


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """A trial of a study, as far as it is known."""

    number: int
    """0 is the default."""
    changes: Mapping[str, Any]
    """Settings, and multiples of rules."""
    rank: int = 0
    """From 1, the best; 0 before it was ranked."""
    scores: tuple[float | None, ...] = ()
    """Accuracies on the held-out images in the last rung that it ran, by seed, in percent; None where it failed."""
    epochs: int = 0
    """Of that rung."""
    failure: str = ""
    """Why it failed."""

    @property
    def mean(self) -> float:
        """Mean accuracy over its seeds; nan if it failed or has not ended."""
        scores = [math.nan if score is None else score for score in self.scores]
        return sum(scores) / len(scores) if scores else math.nan


@final
@dataclass(frozen=True, slots=True)
class Search:
    """A study, with the records and failures of its trials."""

    study: WrittenStudy
    frame: pd.DataFrame
    """Records of its trials, and ``trial``, the number of each."""
    failures: Mapping[int, str]
    """Why trials failed, by their numbers."""

    @property
    def method(self) -> str:
        """The method, with the settings that its trials share."""
        return " ".join([self.study.method, *(f"{name}={value}" for name, value in self.study.fixed.items())])

    @property
    def label(self) -> str:
        """The method, and the number of the study if there are further ones."""
        return f"{self.method}, study {self.study.study}" if self.study.study > 1 else self.method

    def is_for(self, teacher_id: str, student: str) -> bool:
        """Return whether a pair is the one on which it was made; without a teacher, any of its student."""
        return _fits((self.study.teacher, self.study.student), (teacher_id, student))

    @property
    def hours(self) -> float:
        """Hours in which devices trained its finished trials."""
        return float((self.frame["train_seconds"] * self.frame["devices"]).sum()) / 3600

    @property
    def num_trials(self) -> int:
        """Trials that were ranked; before that, trials that were planned."""
        return len(self.study.first_scores) or 1 + len(self.study.points)

    @property
    def failed(self) -> set[int]:
        """The trials that failed, in whichever rung."""
        ranked = {each.trial for each in chain(*self.study.choices.values()) if None in each.top1}
        return ranked if self.study.first_scores else {*self.failures}

    @property
    def num_ended(self) -> int:
        """Trials that have ended in the first rung."""
        first = self.frame.loc[self.frame["epochs"] == self.study.rungs[0], "trial"]
        return len(self.study.first_scores) or len({*first, *self.failures})

    def best_of(self, number: int) -> float:
        """Return the expected best of so many trials, nan if fewer were ranked."""
        scores = [FAILED_SCORE if score is None else score for score in self.study.first_scores.values()]
        return expected_best(scores, number) if number <= len(scores) else math.nan

    @property
    def chosen(self) -> Trial | None:
        """The trial that was chosen."""
        return next(iter(self.trials()), None) if self.study.choices.get(CHOSEN) else None

    def trials(self) -> list[Trial]:
        """Return all trials, ranked ones first; those of a later choice are before those that it left out."""
        study = self.study
        points = [{}, *({**point["settings"], **_words(point["multiples"])} for point in study.points)]
        last = len(study.rungs) - 1
        steps = [(CHOSEN, last), (BEST, last), *((f"rung-{rung + 1}", rung - 1) for rung in range(last, 0, -1))]
        trials: dict[int, Trial] = {}
        for name, rung in steps:
            for each in study.choices.get(name, ()):
                if each.trial < len(points) and each.trial not in trials:
                    failure = self.failures.get(each.trial, "failed") if None in each.top1 else ""
                    trials[each.trial] = Trial(
                        each.trial, points[each.trial], len(trials) + 1, each.top1, study.rungs[rung], failure
                    )
        is_ranked = bool(trials)
        for number, changes in enumerate(points):
            if number not in trials and not (is_ranked and number < study.num_trials):  # else it repeats one before
                trials[number] = self._unranked(number, changes)
        return list(trials.values())

    def _unranked(self, number: int, changes: Mapping[str, Any]) -> Trial:
        cells = self.frame[(self.frame["trial"] == number) & (self.frame["seed"] == self.study.seeds[0])]
        epochs = int(cells["epochs"].max()) if len(cells) else 0
        scores = tuple(map(float, cells.loc[cells["epochs"] == epochs, "held_out_top1"]))
        return Trial(number, changes, 0, scores, epochs, self.failures.get(number, ""))


def _words(multiples: Mapping[str, float]) -> dict[str, str]:
    """Return multiples of rules as words beside settings."""
    return {name: f"x{multiple:g}" for name, multiple in multiples.items()}


_COLUMNS = ["cell", "rules", "chosen", "method", "teacher", "teacher_id", "teacher_validation", "student", "seed"]
_COLUMNS += ["epochs", "held_out_top1", "train_seconds", "devices", "device", "on_gpu"]


def searches_of(records: Records) -> tuple[Search, ...]:
    """Return the searches among records, in the order of methods, pairs and studies."""
    return tuple(
        sorted(
            (_search(study, records) for study in records.studies),
            key=lambda each: (each.study.protocol["name"], each.study.method, each.study.pair, each.study.study),
        )
    )


def searches_for(
    searches: Iterable[Search], rules: Mapping[str, Any], networks: Collection[tuple[str, str]]
) -> tuple[Search, ...]:
    """Return the searches under the name and data of some rules whose choices are run on some teachers and students.

    Parameters
    ----------
    networks
        Id of the teacher and name of the student of each pair.
    """
    return tuple(
        each
        for each in searches
        if all(each.study.protocol[key] == rules[key] for key in ("name", "dataset"))
        and any(_fits(target, pair) for target in each.study.used_on for pair in networks)
    )


def _fits(target: tuple[str, str], pair: tuple[str, str]) -> bool:
    """Return whether a teacher and a student of a study are those of a pair of a comparison."""
    (teacher_id, student), (other_id, label) = target, pair
    # Networks of one name that differ have their version behind it.
    return teacher_id in {"", other_id} and (label == student or label.startswith(f"{student} ("))


def _search(study: WrittenStudy, records: Records) -> Search:
    cells = {cell: each.trial for ranking in study.choices.values() for each in ranking for cell in each.cells}
    frame = records.frame.reindex(columns=_COLUMNS)  # without any record, there are none
    of_pair = (frame["teacher_id"] == study.teacher) & (frame["student"] == study.student)
    part = frame[of_pair & (frame["method"] == study.method) & frame["seed"].isin(study.seeds)]
    columns = zip(part["cell"], part["rules"], part["chosen"], strict=True)
    numbers = [
        cells[cell] if cell in cells else _number(study, json.loads(rules), json.loads(chosen))
        for cell, rules, chosen in columns
    ]
    part = part.assign(trial=numbers)
    failures: dict[int, str] = {}
    for number, reason in _failed(study, records, cells):
        failures.setdefault(number, reason)
    return Search(study, part[part["trial"] >= 0], failures)


def _failed(study: WrittenStudy, records: Records, cells: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    for cell in records.unfinished:
        config = cell.config
        networks = config["teacher"].get("id", ""), config["student"]
        is_of_study = (*networks, config["method"]["name"]) == (study.teacher, study.student, study.method)
        if cell.failure and is_of_study and config["seed"] in study.seeds:
            number = cells.get(config["id"], _number(study, config["protocol"], config.get("chosen", {})))
            if number >= 0:
                yield number, cell.failure


def _number(study: WrittenStudy, rules: Mapping[str, Any], chosen: Mapping[str, Any]) -> int:
    """Return which trial a cell is by what it changed; -1 for none of this study."""
    if rules.get("validation") != study.protocol.get("validation") or rules["epochs"] not in study.rungs:
        return -1
    if {name: value for name, value in chosen.items() if name not in study.space} != study.fixed:
        return -1
    points: Sequence[Mapping[str, Any]] = ({"settings": {}, "multiples": {}}, *study.points)
    for number, point in enumerate(points):
        settings = study.fixed | point["settings"]
        # A setting that does not matter beside the others is not among those that were chosen.
        same = all(settings.get(name) == value for name, value in chosen.items())
        if same and _rates(study, point["multiples"]) == _rates_of(rules):
            return number
    return -1


def _rates(study: WrittenStudy, multiples: Mapping[str, float]) -> dict[str, Any]:
    rates = {name: study.protocol[name] for name in multiples}
    rounded = {name: float(f"{rate * multiples[name]:.{DIGITS}g}") for name, rate in rates.items()}
    return _rates_of(study.protocol) | rounded


def _rates_of(rules: Mapping[str, Any]) -> dict[str, Any]:
    return {name: rules[name] for name in RATES if name in rules and name != "network_learning_rate"}
