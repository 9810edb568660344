"""What stands in results/ is what the commands beside it print."""

from __future__ import annotations

from pathlib import Path

import pytest
from cells import Typed

from kdbench.runs import read_records

FOLDER = Path(__file__).parent.parent / "results" / "cifar10-subset"


@pytest.mark.checkout
@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("leaderboard.md", ["leaderboard", "--format", "markdown"]),
        ("paper.md", ["table", "--layout", "paper", "--format", "markdown"]),
        ("paper.tex", ["table", "--layout", "paper", "--format", "latex"]),
        ("compare.md", ["compare", "--format", "markdown"]),
    ],
)
def test_the_stored_tables_are_what_the_stored_records_say(file: str, words: list[str], typed: Typed) -> None:
    code, out, err = typed(words[0], FOLDER / "runs", *words[1:])
    assert (code, err) == (0, "")
    assert out == (FOLDER / file).read_text(encoding="utf-8")


@pytest.mark.checkout
def test_the_stored_records_are_whole() -> None:
    records = read_records(FOLDER / "runs")
    assert not records.problems
    assert len(records.frame) == 19


@pytest.mark.checkout
def test_the_readme_shows_the_stored_paper_table() -> None:
    readme = (FOLDER.parent.parent / "README.md").read_text(encoding="utf-8")
    assert (FOLDER / "paper.md").read_text(encoding="utf-8").strip() in readme
