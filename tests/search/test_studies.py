"""The studies of a grid: their trials, seeds and pairs, and the cells that are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from searched_grids import open_search, run_all

from kdbench.experiment import own_folders
from kdbench.experiment.cell import Cell
from kdbench.search import making
from kdbench.search.slots import Slot
from kdbench.search.study import study_seeds

PAIRS = ["resnet14>resnet8", "resnet20>resnet8"]


def tried(cell: Cell) -> dict[str, Any]:
    return {name: cell.settings.values()[name] for name in ("kd_weight", "temperature")}


def test_trials_are_cells_that_hold_images_out_and_the_first_is_the_default(tmp_path: Path) -> None:
    grid = open_search(tmp_path)
    default = grid.by_row[grid.file.pairs[0], "kd"][0]
    trials = grid.search.cells
    assert len(trials) == 4
    assert {cell.protocol.rules.evaluation.validation for cell in trials} == {0.1}
    assert {(cell.seed, cell.protocol.epochs) for cell in trials} == {(10001, 1)}
    assert trials[0].settings.values() == default.settings.values()
    assert len({json.dumps(tried(cell)) for cell in trials}) == 4
    assert {cell.protocol.rules.evaluation.validation for row in grid.by_row.values() for cell in row} == {0.0}


def test_trials_hold_out_what_the_protocol_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own_folders.OWN, str(tmp_path))
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "mine.toml").write_text('base = "digits-demo-v1"\n[evaluation]\nvalidation = 0.25\n')
    grid = open_search(tmp_path, protocol="mine")
    assert {cell.protocol.rules.evaluation.validation for cell in grid.search.cells} == {0.25}
    assert {cell.protocol.rules.evaluation.validation for row in grid.by_row.values() for cell in row} == {0.0}


def test_more_trials_add_cells_only(tmp_path: Path) -> None:
    few, many = open_search(tmp_path), open_search(tmp_path, {"trials": 9})
    assert [cell.id for cell in many.search.cells][:4] == [cell.id for cell in few.search.cells]
    assert {cell.id for cell in few.cells} < {cell.id for cell in many.cells}


def test_what_a_study_tries_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever points another scipy draws, and however many trials there are; more trials add to the file."""
    grid = open_search(tmp_path)
    grid.search.write()
    (path,) = (tmp_path / "runs").glob("*/searches/*/study.json")
    first = json.loads(path.read_text())["points"]
    drawn = making.points
    monkeypatch.setattr(making, "points", lambda *_: pytest.fail("they are in the file"))
    for trials in (4, 2):
        again = open_search(tmp_path, {"trials": trials})
        assert [cell.id for cell in again.search.cells] == [cell.id for cell in grid.search.cells][:trials]
        before = path.stat().st_mtime_ns
        again.search.write()
        assert path.stat().st_mtime_ns == before
    other = {"kd_weight": 7.0, "temperature": 7.0}
    monkeypatch.setattr(making, "points", lambda *given: [point | other for point in drawn(*given)])
    more = open_search(tmp_path, {"trials": 6})
    assert [cell.id for cell in more.search.cells[:4]] == [cell.id for cell in grid.search.cells]
    assert tried(more.search.cells[4]) == {"kd_weight": 7.0, "temperature": 7.0}
    more.search.write()
    assert json.loads(path.read_text())["points"][:3] == first


def test_two_studies_share_no_point_and_no_seed(tmp_path: Path) -> None:
    """But for the default, which both try."""
    grid = open_search(tmp_path, {"studies": 2})
    one, two = grid.search.studies
    assert not set(one.seeds) & set(two.seeds)
    assert set(one.seeds) == set(study_seeds(1)) == {10001, 10002, 10003}
    points = [{str(point) for point in study.points} for study in (one, two)]
    assert not points[0] & points[1]
    assert tried(one.trials[0]) == tried(two.trials[0])
    finals = [slot for slot in grid.waiting if slot.stage == "final"]
    assert len(finals) == 2 * 2, "each chooses, and both choices are run"
    assert len({slot.key for slot in grid.waiting}) == len(grid.waiting) == 2 * (6 + 2)


def test_settings_that_were_chosen_on_a_pair_are_frozen_for_the_others(tmp_path: Path) -> None:
    """Tuned on the first pair for both, and on the second one for that; both stand beside the default."""
    pair = PAIRS[1]
    grid = run_all(open_search(tmp_path, pairs=PAIRS, seeds=1))
    first, second = grid.search.studies
    finals = grid.search.stages()["final"][0]
    assert [(cell.teacher.network, tried(cell)) for cell in finals if cell.teacher] == [
        ("resnet14", tried(first.trials[1])),
        ("resnet20", tried(first.trials[1])),
        ("resnet20", tried(second.trials[1])),
    ]
    assert {(cell.seed, cell.protocol.epochs, cell.protocol.rules.evaluation.validation) for cell in finals} == {
        (1, 2, 0.0)
    }
    only = run_all(open_search(tmp_path, {"on": PAIRS[:1]}, pairs=PAIRS, seeds=1))
    assert [cell.id for cell in only.search.stages()["final"][0]] == [cell.id for cell in finals[:2]]
    assert {each.pair for each in only.search.studies} == {PAIRS[0]}
    assert pair in {each.pair for each in grid.search.studies}


def test_pairs_of_one_student_share_the_trials_of_a_method_without_a_teacher(tmp_path: Path) -> None:
    grid = open_search(tmp_path, pairs=PAIRS, methods=["ce", "kd"], seeds=1)
    assert [(study.default.method, study.pair) for study in grid.search.studies] == [
        *(("ce", "resnet8"), ("kd", PAIRS[0]), ("kd", PAIRS[1])),
    ]
    assert len(grid.search.cells) == 3 * 4
    finals = [slot for slot in grid.waiting if slot.stage == "final"]
    assert [slot.study.pair for slot in finals] == ["resnet8", *PAIRS[:1], PAIRS[0], PAIRS[1]]


def test_learning_rates_are_multiplied_for_each_student(tmp_path: Path) -> None:
    """Rules of CIFAR-100 give some students a rate of their own."""
    lines = {"protocol": "cifar100-crd-v1", "pairs": ["vgg13>MobileNetV2"], "seeds": 1, "epochs": 240}
    grid = open_search(tmp_path, {"rules": {"learning_rate": [0.5, 2]}, "trials": 3, "space": {"kd": {}}}, **lines)
    rules = grid.session.protocol.rules.optimizer
    assert rules.network_learning_rate["MobileNetV2"] != rules.learning_rate
    tries = {
        (
            cell.protocol.rules.optimizer.learning_rate,
            cell.protocol.rules.optimizer.network_learning_rate["MobileNetV2"],
        )
        for cell in grid.search.cells
    }
    multiples = [(rate / rules.learning_rate, own / rules.network_learning_rate["MobileNetV2"]) for rate, own in tries]
    assert all(rate == pytest.approx(own) for rate, own in multiples)
    assert {round(rate, 9) for rate, _ in multiples} == {0.5, 1.0, 2.0}


def test_settings_that_a_grid_fixes_are_not_searched(tmp_path: Path) -> None:
    grid = open_search(tmp_path, method={"kd": {"temperature": 2.5}})
    assert {tried(cell)["temperature"] for cell in grid.search.cells} == {2.5}
    assert len({tried(cell)["kd_weight"] for cell in grid.search.cells}) == 4


def test_a_study_keeps_the_pairs_on_which_its_choice_was_run(tmp_path: Path) -> None:
    """``used_on`` of both grids, whichever was opened last."""
    for pairs in (PAIRS, PAIRS[:1]):
        open_search(tmp_path, {"on": PAIRS[:1]}, pairs=pairs).search.write()
    (path,) = (tmp_path / "runs").glob("*/searches/*/study.json")
    assert len(json.loads(path.read_text())["used_on"]) == 2


def test_stand_ins_are_as_many_as_what_is_known_later(tmp_path: Path) -> None:
    grid = open_search(tmp_path, {"trials": 8, "rungs": [1, 2]}, seeds=3)
    slots: list[Slot] = grid.waiting
    assert [slot.stage for slot in slots] == ["rung-2"] * 4 + ["best"] * 6 + ["final"] * 3
    assert [slot.stand_in.protocol.epochs for slot in slots] == [2] * 10 + [2] * 3
    done = run_all(grid)
    assert not done.waiting
    known = done.search.known
    for slot in slots:
        assert known[slot.key].seed == slot.stand_in.seed
        assert known[slot.key].protocol.epochs == slot.stand_in.protocol.epochs
