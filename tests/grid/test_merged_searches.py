"""Searches come with the cells of another folder, and no choice that is there is changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from searched_runs import write_search

from kdbench.grid.merging import merge


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path, Path, Path]:
    """Two folders of runs with one search, and its folder in each."""
    folder = write_search(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    return tmp_path / "a", tmp_path / "b", folder, tmp_path / "b" / folder.relative_to(tmp_path / "a")


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_search_is_brought_whole(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "a")
    merged = merge(tmp_path / "a", tmp_path / "b")
    assert (merged.searches, merged.left_out) == (1, [])
    target = tmp_path / "b" / folder.relative_to(tmp_path / "a")
    names = {"study.json", "5-trials-best.json", "5-trials-chosen.json"}
    assert {path.name: json.loads(path.read_text()) for path in target.iterdir()} == {
        name: json.loads((folder / name).read_text()) for name in names
    }
    again = merge(tmp_path / "a", tmp_path / "b")
    assert (again.searches, again.there) == (0, merged.cells + 1)


def test_a_choice_that_differs_is_named_and_stays(two: tuple[Path, Path, Path, Path]) -> None:
    source, runs, folder, target = two
    edited(target / "5-trials-best.json", taken=[1, 2, 0])
    (target / "5-trials-chosen.json").unlink()
    shutil.copy(folder / "5-trials-chosen.json", folder / "9-trials-chosen.json")
    before = (target / "5-trials-best.json").read_bytes()
    merged = merge(source, runs)
    assert merged.left_out == [
        f"{folder / '5-trials-best.json'} is left out: {target / '5-trials-best.json'} has another choice, which stays"
    ]
    assert (target / "5-trials-best.json").read_bytes() == before
    assert not (target / "5-trials-chosen.json").exists(), "it was chosen among the other best"
    assert (target / "9-trials-chosen.json").exists()


def test_points_and_pairs_of_both_are_kept(two: tuple[Path, Path, Path, Path]) -> None:
    source, runs, folder, target = two
    points = json.loads((folder / "study.json").read_text())["points"]
    more = [*points, {"settings": {"temperature": 9.0}, "multiples": {}}]
    edited(folder / "study.json", points=more)
    edited(target / "study.json", used_on=[["cell:other", "resnet8"]])
    assert merge(source, runs).searches == 1
    study = json.loads((target / "study.json").read_text())
    assert study["points"] == more
    assert study["used_on"] == [["cell:abcdef0123", "resnet8"], ["cell:other", "resnet8"]]


@pytest.mark.parametrize("changes", [{"points": []}, {"fixed": {"x": 1}}, {"points": [{"settings": {}}] * 4}])
def test_another_search_of_the_same_name_is_left_out(two: tuple[Path, Path, Path, Path], changes: Any) -> None:
    source, runs, folder, target = two
    edited(folder / "study.json", **changes)
    before = (target / "study.json").read_bytes()
    merged = merge(source, runs)
    is_part = changes == {"points": []}
    assert merged.left_out == ([] if is_part else [f"{folder} is left out: {target} is another search of this name"])
    assert (target / "study.json").read_bytes() == before


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("name", ["study.json", "5-trials-chosen.json"])
def test_a_damaged_search_is_left_out(two: tuple[Path, Path, Path, Path], side: int, name: str) -> None:
    source, runs, folder, _ = two
    (two[2 + side] / name).write_text('{"ranking": 3}')
    merged = merge(source, runs)
    (line,) = merged.left_out
    assert line.startswith(f"{folder} is left out: ")
    assert "damaged" in line
