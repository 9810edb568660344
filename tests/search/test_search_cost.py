"""What a plan says of a search before it begins: cells that are known later are in all that is estimated."""

from __future__ import annotations

from pathlib import Path

import pytest
from searched_grids import open_search, score, write_search
from typer.testing import CliRunner

from kdbench.cli import grid_needs
from kdbench.cli.grid import app
from kdbench.grid.estimate import GridEstimate
from kdbench.grid.grid import Grid
from kdbench.grid.states import survey
from kdbench.grid.timing import measure
from kdbench.grid.variants import variants_of
from kdbench.teachers.demand import Wanted, visited
from kdbench.utils.scheduler import Scheduler


def estimated(grid: Grid) -> GridEstimate:
    return GridEstimate.of(grid, survey((*grid.cells, *grid.to_train), grid.session.runs, Scheduler(), {}, {}))


def test_cells_that_are_known_later_cost_what_they_will(tmp_path: Path) -> None:
    """Three rungs: 8, 4 and 2 trials, both again with 2 seeds; the default and the chosen settings with 2 seeds."""
    grid = open_search(tmp_path, {"trials": 8, "rungs": [1, 2, 4]}, methods=["ce", "kd"], seeds=2, epochs=6)
    of_search = [8 * 1 + 4 * 2 + 2 * 4 + 2 * 2 * 4, 8 + 4 + 2 + 4]
    (line,) = grid_needs.search_lines(grid, estimated(grid))
    epochs, cells = (2 * number for number in of_search)
    assert line == (
        f"cost: {cells} cells ({epochs} epochs) for the search, 8 cells (48 epochs) for the runs that are compared"
    )
    assert estimated(grid).disk.num_cells == cells + 8 + 1, "and the teacher's"


def test_on_further_pairs_settings_are_trained_that_were_chosen_on_each_and_on_the_first(tmp_path: Path) -> None:
    """Both stand for the same cell as long as nothing is chosen, and are two."""
    pairs = ["resnet14>resnet8", "resnet20>resnet8", "resnet14>resnet14"]
    grid = open_search(tmp_path, {"trials": 1, "on": pairs[:2]}, pairs=pairs, seeds=1, epochs=2)
    (line,) = grid_needs.search_lines(grid, estimated(grid))
    # One trial needs no further seeds. Compared: 3 defaults; chosen on the first pair for 3, on the second one for 1.
    assert "2 cells (2 epochs) for the search, 7 cells (14 epochs) for the runs" in line


def test_times_are_those_of_cells_that_differ_in_what_is_searched(tmp_path: Path) -> None:
    """A fake record says 21 seconds; one trial and one default are done."""
    grid = open_search(tmp_path, {"rules": {"learning_rate": [0.5, 1, 2]}}, methods=["kd"], seeds=2)
    (line,) = grid_needs.search_lines(grid, estimated(grid))
    assert "about" not in line
    variants = variants_of(
        survey(grid.cells, grid.session.runs, Scheduler(), {}, {}),
        [slot.stand_in for slot in grid.waiting],
        {"kd": grid.file.search.spaces["kd"]},  # type: ignore[union-attr]
    )
    assert [(v.cell.protocol.epochs, len(v.left)) for v in variants] == [(1, 4 + 6), (2, 2 + 2)]
    score(grid.search.cells[1], grid.session.runs, 60.0)
    (line,) = grid_needs.search_lines(grid, estimated(grid))
    assert "9 cells (9 epochs, about 3:09) for the search, 4 cells (8 epochs) for the runs" in line
    score(grid.by_row[grid.file.pairs[0], "kd"][0], grid.session.runs, 60.0)
    (line,) = grid_needs.search_lines(grid, estimated(grid))
    assert line.endswith("3 cells (6 epochs, about 1:03) for the runs that are compared")


def test_caches_hold_what_trials_and_compared_runs_visit(tmp_path: Path, tiny_npz: Path) -> None:
    """So many epochs that every view of what trials train on is seen; what they hold out is seen once, at the end."""
    file = write_search(tmp_path / "grid.toml", {"trials": 2, "epochs": 200}, seeds=1, epochs=1, data=f"npz:{tiny_npz}")
    grid = Grid.open(file, runs=tmp_path / "runs", device="cpu")
    cells = [*grid.cells, *(slot.stand_in for slot in grid.waiting)]
    pairs = visited([Wanted.by(cell) for cell in cells], grid.session.device_data)
    (need,) = estimated(grid).caches
    division = grid.session.device_data.division(0.1)
    assert len(pairs) == 9 * len(division.trained) + len(division.held_out)
    assert need.views == pytest.approx(len(pairs), abs=1e-3)
    taught = sum(
        len(Wanted.by(cell).epochs) * (len(division.trained) if cell.protocol.epochs > 1 else 42) for cell in cells
    )
    assert need.forwards == taught


def test_a_search_is_timed_before_it_begins(tmp_path: Path, tiny_npz: Path) -> None:
    """One step of a trial stands for all trials, since they differ in what is searched alone."""
    file = write_search(tmp_path / "grid.toml", data=f"npz:{tiny_npz}")
    grid = Grid.open(file, runs=tmp_path / "runs", device="cpu")
    timed: list[str] = []
    after = measure(grid, estimated(grid), tmp_path, 1, lambda what, *_: timed.append(what))
    assert timed == ["kd resnet14>resnet8", "kd resnet14>resnet8", "ce resnet14", "cache of resnet14"]
    assert not after.unknown
    (line,) = grid_needs.search_lines(grid, after)
    assert line.count(", about ") == 2


def test_the_plan_says_what_the_search_costs(tmp_path: Path, tiny_npz: Path) -> None:
    """And writes nothing."""
    file = write_search(tmp_path / "grid.toml", data=f"npz:{tiny_npz}")
    words = ["plan", str(file), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert (
        "\ncost: 10 cells (10 epochs) for the search, 4 cells (8 epochs) for the runs that are compared\n"
        in result.output
    )
    assert {path.name for path in tmp_path.iterdir()} == {"grid.toml"}
