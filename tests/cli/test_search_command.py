"""The command that shows searches: its forms, what it says where there is nothing to show, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from cells import Typed
from searched_runs import write_compared, write_search


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv"])
@pytest.mark.parametrize("trials", [[], ["--trials"]])
def test_searches_and_trials_are_printed(form: str, trials: list[str], tmp_path: Path, typed: Typed) -> None:
    write_search(tmp_path)
    code, out, err = typed("search", tmp_path, *trials, "--format", form)
    assert (code, err) == (0, "")
    assert "temperature=3.0" in out
    assert ("diverged" in out) is bool(trials)


def test_a_damaged_search_is_named_and_the_others_are_shown(tmp_path: Path, typed: Typed) -> None:
    write_search(tmp_path)
    folder = write_search(tmp_path, {0: (60.0,)}, method="ce", teacher=None)
    (folder / "study.json").write_text("{}")
    code, out, err = typed("search", tmp_path)
    assert code == 2
    assert "temperature=3.0" in out
    (line,) = err.splitlines()
    assert line.startswith(f"kdbench: the search in {folder} is left out: it is damaged")


def test_without_a_search_it_says_what_makes_one(tmp_path: Path, typed: Typed) -> None:
    write_compared(tmp_path, "ce", 0)
    code, out, err = typed("search", tmp_path)
    assert (code, out) == (2, "")
    assert err == (f"kdbench: no search in {tmp_path}: 'kdbench grid run' makes one for a grid file with [search]\n")


def test_a_folder_of_trials_alone_says_how_to_see_them(tmp_path: Path, typed: Typed) -> None:
    write_search(tmp_path)
    code, _, err = typed("table", tmp_path)
    assert code == 2
    assert err == f"kdbench: no finished runs but trials in {tmp_path}: 'kdbench search {tmp_path}' shows them\n"


def test_failed_trials_are_no_unfinished_cells(tmp_path: Path, typed: Typed) -> None:
    write_search(tmp_path)
    write_compared(tmp_path, "kd", 2)
    code, out, err = typed("table", tmp_path)
    assert (code, err) == (0, "")
    assert "kd (tuned per pair): 5 trials (1 failed) x 2 epochs" in out
