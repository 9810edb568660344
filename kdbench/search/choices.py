"""Choose among trials by their records, once: what was chosen stays, whatever is run again later."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import FAILURE, RECORD, parse_record
from kdbench.search.files import CHOSEN, RULE, STUDY, choice_name
from kdbench.search.study import Point, Step, Study
from kdbench.utils.files import write_json
from kdbench.utils.reading import Missing, Unreadable, read_json


@final
class Choices:
    """The choices of studies below a folder of runs.

    Parameters
    ----------
    writes
        Whether a choice is written down as soon as it can be made; if not, this only looks.
    """

    def __init__(self, runs: Path, *, writes: bool) -> None:
        self._runs, self._writes = runs, writes
        self._taken: dict[tuple[str, int, str], tuple[int, ...]] = {}

    def taken(self, study: Study, name: str) -> tuple[int, ...] | None:
        """Return the trials that a step took, the best first; None as long as cells before it have not ended."""
        key = study.id, study.num_trials, name
        if key not in self._taken:
            before = tuple(study.trials)
            for step in study.steps:
                found = self._take(study, step, before)
                if found is None:
                    return None
                before = found
                if step.name == name:
                    break
            self._taken[key] = before
        return self._taken[key]

    def _take(self, study: Study, step: Step, candidates: tuple[int, ...]) -> tuple[int, ...] | None:
        path = study.folder(self._runs) / choice_name(study.num_trials, step.name)
        with contextlib.suppress(Missing, Unreadable, KeyError, TypeError):
            taken = tuple(read_json(path)["taken"])
            if set(taken) <= set(candidates):
                return taken
        cells = study.cells(step, candidates)
        if not all(self._has_ended(cell) for several in cells.values() for cell in several):
            return None
        try:
            scores = {number: [self._score(cell) for cell in several] for number, several in cells.items()}
        except Unreadable:
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
        """Return a trial's accuracy on the held-out images; minus infinity where it failed."""
        try:
            return float(parse_record(cell.folder(self._runs) / RECORD)["validation"]["top1"])
        except Missing:
            return -math.inf


def _mean(scores: list[float]) -> float:
    return sum(scores) / len(scores)


def _write_once(path: Path, values: dict[str, Any]) -> None:
    """Write a file unless there is one: two that choose at once see the same records."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, values)


def write_study(study: Study, targets: Iterable[Cell], runs: Path) -> None:
    """Write what a study tries, and on what its choice is run; what its file has beyond that, it keeps.

    Parameters
    ----------
    targets
        Default cells of the pairs on which the choice is run.
    """
    path = study.folder(runs) / STUDY
    points, used_on = list(study.points), {_networks(cell) for cell in (study.default, *targets)}
    if path.exists():
        stored = stored_points(path) or []
        points += stored[len(points) :]
        used_on |= set(map(tuple, read_json(path)["used_on"]))
        if len(points) == len(stored) and len(used_on) == len(read_json(path)["used_on"]):
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = study.default
    write_json(
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


def stored_points(path: Path) -> list[Point] | None:
    """Return the points in a study's file, None where there is none.

    Raises
    ------
    UserError
        It is damaged.
    """
    try:
        points = [Point(dict(each["settings"]), dict(each["multiples"])) for each in read_json(path)["points"]]
    except Missing:
        return None
    except (Unreadable, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): move its folder away, and the search makes it anew") from None
    return points
