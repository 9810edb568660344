"""What is taken of trials: the best by their records, once; what failed ranks last and never blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from searched_grids import open_search, score

from kdbench.errors import UserError
from kdbench.experiment.folder import FAILURE, RECORD
from kdbench.search.choices import Choices
from kdbench.search.study import Study


def run_step(study: Study, name: str, candidates: tuple[int, ...], runs: Path, top1: Callable[[int, int], Any]) -> None:
    """Leave the results of the cells by which a step is taken."""
    (step,) = (each for each in study.steps if each.name == name)
    for number, cells in study.cells(step, candidates).items():
        for cell in cells:
            if not (cell.folder(runs) / RECORD).exists():
                score(cell, runs, top1(number, cell.seed))


def chosen(study: Study, runs: Path) -> tuple[int, ...] | None:
    return Choices(runs, writes=True).taken(study, "chosen")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Five trials of one rung."""
    (study,) = open_search(tmp_path, {"trials": 5}).search.studies
    return study


def test_the_best_three_are_run_again_and_the_best_mean_is_chosen(study: Study, tmp_path: Path) -> None:
    first = {0: 50.0, 1: 70.0, 2: 40.0, 3: 90.0, 4: 60.0}
    run_step(study, "best", (0, 1, 2, 3, 4), tmp_path, lambda number, _: first[number])
    assert Choices(tmp_path, writes=True).taken(study, "best") == (3, 1, 4)
    assert chosen(study, tmp_path) is None
    again = {(3, 10002): 30.0, (3, 10003): 30.0, (1, 10002): 60.0, (1, 10003): 65.0, (4, 10002): 60.0, (4, 10003): 60.0}
    run_step(study, "chosen", (3, 1, 4), tmp_path, lambda *key: again[key])
    assert chosen(study, tmp_path) == (1,)
    values = json.loads((study.folder(tmp_path) / "5-trials-chosen.json").read_text())
    assert [(each["trial"], each["top1"]) for each in values["ranking"]] == [
        *((1, [70.0, 60.0, 65.0]), (4, [60.0, 60.0, 60.0]), (3, [90.0, 30.0, 30.0])),
    ]
    assert "the best 3 of the last rung are run with 2 further seeds" in values["rule"]
    settings = study.trials[1].settings.values()
    assert values["settings"] == {name: settings[name] for name in study.space if name in settings}


def test_of_equals_the_earlier_is_taken(study: Study, tmp_path: Path) -> None:
    run_step(study, "best", (0, 1, 2, 3, 4), tmp_path, lambda *_: 50.0)
    assert Choices(tmp_path, writes=True).taken(study, "best") == (0, 1, 2)
    run_step(study, "chosen", (0, 1, 2), tmp_path, lambda *_: 50.0)
    assert chosen(study, tmp_path) == (0,)


def test_a_trial_that_failed_ranks_last(study: Study, tmp_path: Path) -> None:
    """Below one that guesses; with a further seed as well, whatever its first accuracy was."""
    first = {0: 0.0, 1: None, 2: 99.0, 3: None, 4: 1.0}
    run_step(study, "best", (0, 1, 2, 3, 4), tmp_path, lambda number, _: first[number])
    assert Choices(tmp_path, writes=True).taken(study, "best") == (2, 4, 0)
    run_step(study, "chosen", (2, 4, 0), tmp_path, lambda number, seed: None if (number, seed) == (2, 10003) else 5.0)
    assert chosen(study, tmp_path) == (4,)
    ranking = json.loads((study.folder(tmp_path) / "5-trials-chosen.json").read_text())["ranking"]
    assert [(each["trial"], each["top1"]) for each in ranking][-1] == (2, [99.0, 5.0, None])


def test_where_all_fail_the_default_is_chosen(study: Study, tmp_path: Path) -> None:
    run_step(study, "best", (0, 1, 2, 3, 4), tmp_path, lambda *_: None)
    run_step(study, "chosen", (0, 1, 2), tmp_path, lambda *_: None)
    assert chosen(study, tmp_path) == (0,)


def test_nothing_is_taken_before_all_trials_have_ended(study: Study, tmp_path: Path) -> None:
    run_step(study, "best", (0, 1, 2, 3), tmp_path, lambda *_: 50.0)
    assert Choices(tmp_path, writes=True).taken(study, "best") is None
    assert not study.folder(tmp_path).exists()


def test_rungs_halve_the_trials(tmp_path: Path) -> None:
    """Seven trials, the better four of them, the better two of these: both are run again."""
    (study,) = open_search(tmp_path, {"trials": 7, "rungs": [1, 2, 4]}).search.studies
    assert [(step.name, step.number) for step in study.steps] == [
        *(("rung-2", 4), ("rung-3", 2), ("best", 2), ("chosen", 1)),
    ]
    candidates = tuple(range(7))
    orders = {"rung-2": (6, 4, 2, 0, 1, 3, 5), "rung-3": (0, 2, 4, 6), "best": (2, 0)}
    for step in study.steps[:-1]:
        order = orders[step.name]
        run_step(study, step.name, candidates, tmp_path, lambda number, _, order=order: 90.0 - order.index(number))
        taken = Choices(tmp_path, writes=True).taken(study, step.name)
        assert taken == order[: step.number]
        candidates = taken
    assert {study.trial(number, 0, 10001).protocol.epochs for number in range(7)} == {1}
    assert {study.cells(study.steps[2], candidates)[0][0].protocol.epochs} == {4}
    run_step(study, "chosen", candidates, tmp_path, lambda number, _: 50.0 + number)
    values = json.loads((study.folder(tmp_path) / "7-trials-best.json").read_text())
    assert values["epochs"] == 4


def test_one_trial_needs_no_further_seeds(tmp_path: Path) -> None:
    (study,) = open_search(tmp_path, {"trials": 1}).search.studies
    run_step(study, "best", (0,), tmp_path, lambda *_: 50.0)
    assert chosen(study, tmp_path) == (0,)


def test_trials_of_the_same_settings_are_one(tmp_path: Path) -> None:
    """Of two values, one is the default."""
    (study,) = open_search(tmp_path, {"trials": 8, "space": {"kd": {"temperature": [4.0, 2.0]}}}).search.studies
    assert len(study.points) == 7
    assert len(study.trials) == 2
    assert 0 in study.trials
    run_step(study, "best", tuple(study.trials), tmp_path, lambda number, _: float(number))
    assert Choices(tmp_path, writes=True).taken(study, "best") == tuple(sorted(study.trials, reverse=True))


def test_what_was_chosen_stays(study: Study, tmp_path: Path) -> None:
    """A trial that failed is run again afterwards, and is the best; with more trials a choice is made anew."""
    first = {0: 50.0, 1: 70.0, 2: None, 3: 90.0, 4: 60.0}
    run_step(study, "best", (0, 1, 2, 3, 4), tmp_path, lambda number, _: first[number])
    run_step(study, "chosen", (3, 1, 4), tmp_path, lambda *_: 50.0)
    assert chosen(study, tmp_path) == (3,)
    files = {path: path.read_bytes() for path in study.folder(tmp_path).iterdir()}
    assert {path.name for path in files} == {"5-trials-best.json", "5-trials-chosen.json"}
    failed = study.trial(2, 0, 10001)
    (failed.folder(tmp_path) / FAILURE).unlink()
    score(failed, tmp_path, 99.0)
    assert chosen(study, tmp_path) == (3,)
    (more,) = open_search(tmp_path, {"trials": 6}).search.studies
    assert more.folder(tmp_path) == study.folder(tmp_path)
    run_step(more, "best", (0, 1, 2, 3, 4, 5), tmp_path, lambda *_: 10.0)
    run_step(more, "chosen", (2, 3, 1), tmp_path, lambda *_: 80.0)
    assert chosen(more, tmp_path) == (2,)
    assert {path: path.read_bytes() for path in files} == files


def test_looking_writes_nothing(study: Study, tmp_path: Path) -> None:
    run_step(study, "best", (0, 1, 2, 3, 4), tmp_path, lambda *_: 50.0)
    assert Choices(tmp_path, writes=False).taken(study, "best") == (0, 1, 2)
    assert not study.folder(tmp_path).exists()


def test_the_choice_waits_for_a_record_that_cannot_be_used(study: Study, tmp_path: Path) -> None:
    """Its cell is shown as failed, and ``retry`` runs it again."""
    run_step(study, "best", (0, 1, 2, 3, 4), tmp_path, lambda *_: 50.0)
    record = study.trial(4, 0, 10001).folder(tmp_path) / RECORD
    whole, other = record.read_text(), (study.trial(3, 0, 10001).folder(tmp_path) / RECORD).read_text()
    values = json.loads(whole)
    del values["validation"]
    for text in ("", "{}", whole[:-9], other, json.dumps(values)):
        record.write_text(text)
        assert Choices(tmp_path, writes=True).taken(study, "best") is None
    record.write_text(whole)
    assert Choices(tmp_path, writes=True).taken(study, "best") == (0, 1, 2)


@pytest.mark.parametrize(
    ("taken", "reason"),
    [
        ([0], "takes other trials"),
        ([0, 0, 1], "takes other trials"),
        ([0, 1, 77], "takes other trials"),
        (3, "is damaged"),
        ([0, 1, {}], "is damaged"),
    ],
)
def test_a_choice_that_cannot_be_used(taken: Any, reason: str, study: Study, tmp_path: Path) -> None:
    run_step(study, "best", (0, 1, 2, 3, 4), tmp_path, lambda *_: 50.0)
    assert Choices(tmp_path, writes=True).taken(study, "best") == (0, 1, 2)
    path = study.folder(tmp_path) / "5-trials-best.json"
    path.write_text(json.dumps({"taken": taken}))
    with pytest.raises(UserError, match=f"5-trials-best.json {reason}.*: move it away, and the choice is made anew"):
        Choices(tmp_path, writes=True).taken(study, "best")
    path.unlink()
    assert Choices(tmp_path, writes=True).taken(study, "best") == (0, 1, 2)
