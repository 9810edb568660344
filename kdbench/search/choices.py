"""Choose among trials by their records, once: what was chosen stays, whatever is run again later."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, final

from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import FAILURE, RECORD, read_record
from kdbench.search.files import CHOSEN, RULE, STUDY, choice_name, read_values, write_values
from kdbench.search.study import Point, Step, Study
from kdbench.utils.reading import Missing, Unreadable


@final
class Choices:
    """The choices of studies below a folder of runs, as they are when each study is first looked at.

    Parameters
    ----------
    writes
        Whether a choice is written down as soon as it can be made; if not, this only looks.
    """

    def __init__(self, runs: Path, *, writes: bool) -> None:
        self._runs, self._writes = runs, writes
        self._taken: dict[tuple[str, int], dict[str, tuple[int, ...]]] = {}

    def taken(self, study: Study, name: str) -> tuple[int, ...] | None:
        """Return the trials that a step took, the best first; None as long as cells before it have not ended.

        Raises
        ------
        UserError
            The file of a choice is damaged.
        """
        key = study.id, study.num_trials
        if key not in self._taken:
            self._taken[key] = self._look(study)
        return self._taken[key].get(name)

    def _look(self, study: Study) -> dict[str, tuple[int, ...]]:
        taken: dict[str, tuple[int, ...]] = {}
        candidates = tuple(study.trials)
        for step in study.steps:
            numbers = self._take(study, step, candidates)
            if numbers is None:
                break
            taken[step.name] = candidates = numbers
        return taken

    def _take(self, study: Study, step: Step, candidates: tuple[int, ...]) -> tuple[int, ...] | None:
        path = study.folder(self._runs) / choice_name(study.num_trials, step.name)
        stored = _stored_choice(path, step, candidates)
        if stored:
            return stored
        cells = study.cells(step, candidates)
        if not all(self._has_ended(cell) for several in cells.values() for cell in several):
            return None
        try:
            scores = {number: [self._score(cell) for cell in several] for number, several in cells.items()}
        except (LookupError, UserError):  # a record that cannot be used is named by the state of its cell
            return None
        ranking = sorted(candidates, key=lambda number: (-_mean(scores[number]), number))
        taken = tuple(ranking[: step.number])
        if self._writes:
            ranked = [
                {
                    "trial": number,
                    "cells": [cell.id for cell in cells[number]],
                    "top1": [None if score == -math.inf else score for score in scores[number]],
                }
                for number in ranking
            ]
            values = {"rule": RULE, "epochs": study.rungs[step.rung], "ranking": ranked, "taken": list(taken)}
            if step.name == CHOSEN:
                values |= study.described(taken[0])
            _write_once(path, values)
        return taken

    def _has_ended(self, cell: Cell) -> bool:
        folder = cell.folder(self._runs)
        return any(os.path.lexists(folder / name) for name in (RECORD, FAILURE))

    def _score(self, cell: Cell) -> float:
        """Return a trial's accuracy on the held-out images; minus infinity where it failed.

        Raises
        ------
        UserError, LookupError
            Its record cannot be used.
        """
        record = read_record(cell.folder(self._runs), cell)
        return float(record["validation"]["top1"]) if record else -math.inf


def _stored_choice(path: Path, step: Step, candidates: Sequence[int]) -> tuple[int, ...] | None:
    try:
        taken = read_values(path)["taken"]
        if len(taken) == step.number == len(set(taken)) and set(taken) <= set(candidates):
            return tuple(taken)
        reason = "takes other trials than there are"
    except Missing:
        return None
    except (Unreadable, KeyError, TypeError) as error:
        reason = f"is damaged ({error})"
    raise UserError(f"{path} {reason}: move it away, and the choice is made anew from the records")


def _mean(scores: list[float]) -> float:
    return sum(scores) / len(scores)


def _write_once(path: Path, values: dict[str, Any]) -> None:
    """Write a file unless there is one: two that choose at once see the same records."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_values(path, values)


def write_study(study: Study, targets: Iterable[Cell], runs: Path) -> None:
    """Write what a study tries, and on what its choice is run; what its file has beyond that, it keeps.

    Parameters
    ----------
    targets
        Default cells of the pairs on which the choice is run.
    """
    path = study.folder(runs) / STUDY
    stored, stored_on = _stored_study(path)
    points = [*study.points, *stored[len(study.points) :]]
    used_on = stored_on | {_networks(cell) for cell in (study.default, *targets)}
    if len(points) == len(stored) and used_on == stored_on:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = study.default
    write_values(
        path,
        {
            "id": study.id,
            "method": cell.method,
            "method_version": cell.method_version,
            "pair": study.pair,
            "teacher": cell.teacher.id if cell.teacher else "",
            "student": cell.student_label,
            "used_on": sorted(used_on),
            "protocol": cell.protocol.identity(),
            "study": study.number,
            "fixed": study.fixed,
            **{key: {name: str(each) for name, each in space.items()} for key, space in study.spaces.items()},
            "rungs": list(study.rungs),
            "seeds": list(study.seeds),
            "rule": RULE,
            "points": [{"settings": point.settings, "multiples": point.multiples} for point in points],
        },
    )


def _networks(cell: Cell) -> tuple[str, str]:
    return cell.teacher.id if cell.teacher else "", cell.student_label


def stored_points(path: Path) -> list[Point]:
    """Return the points in a study's file, none where there is no file.

    Raises
    ------
    UserError
        It is damaged.
    """
    return _stored_study(path)[0]


def _stored_study(path: Path) -> tuple[list[Point], set[tuple[str, str]]]:
    try:
        values = read_values(path)
        points = [Point(dict(each["settings"]), dict(each["multiples"])) for each in values["points"]]
        return points, {(str(teacher), str(student)) for teacher, student in values["used_on"]}
    except Missing:
        return [], set()
    except (Unreadable, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): move its folder away, and the search makes it anew") from None
