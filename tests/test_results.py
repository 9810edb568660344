"""What stands in results/ is what the commands beside it print."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from cells import Typed

from kdbench.analysis.records import read_records
from kdbench.experiment.registry import method_names

RESULTS = Path(__file__).parent.parent / "results"
FOLDERS = {"cifar10": 13, "cifar10-subset": 31, "every-method": 59, "tuned": 81}
"""Folders with records, and how many."""


@pytest.mark.checkout
@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("leaderboard.md", ["leaderboard", "--format", "markdown"]),
        ("paper.md", ["table", "--layout", "paper", "--format", "markdown"]),
        ("paper.tex", ["table", "--layout", "paper", "--format", "latex"]),
        ("compare.md", ["compare", "--format", "markdown"]),
    ],
)
def test_the_stored_tables_are_what_the_stored_records_say(
    folder: str, file: str, words: list[str], typed: Typed
) -> None:
    code, out, err = typed(words[0], RESULTS / folder / "runs", *words[1:])
    assert (code, err) == (0, "")
    assert out == (RESULTS / folder / file).read_text(encoding="utf-8")


@pytest.mark.checkout
def test_the_stored_search_is_what_the_stored_records_say(typed: Typed) -> None:
    code, out, err = typed("search", RESULTS / "tuned/runs", "--format", "markdown")
    assert (code, err) == (0, "")
    assert out == (RESULTS / "tuned/search.md").read_text(encoding="utf-8")


@pytest.mark.checkout
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_stored_records_are_whole(folder: str) -> None:
    records = read_records(RESULTS / folder / "runs")
    assert not records.problems
    assert len(records.frame) == FOLDERS[folder]


@pytest.mark.checkout
def test_every_method_of_the_grid_has_results() -> None:
    folder = RESULTS / "every-method"
    methods = sorted(tomllib.loads((folder / "grid.toml").read_text(encoding="utf-8"))["methods"])
    assert set(methods) <= set(method_names())
    seeds = read_records(folder / "runs").frame.groupby("method")["seed"].nunique()
    assert sorted(seeds.index) == methods
    assert seeds.min() >= 2
