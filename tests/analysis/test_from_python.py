"""Tables and the leaderboard from Python are those of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from cells import Typed
from fake_records import fake_record, write_records

import kdbench


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    records = [
        fake_record(method, seed, top1 + seed, teacher=None if method == "ce" else "resnet20")
        for method, top1 in (("ce", 60.0), ("kd", 70.0), ("dkd", 72.0))
        for seed in (1, 2, 3)
    ]
    write_records(tmp_path / "runs", records)
    return tmp_path / "runs"


def test_they_are_what_the_commands_print(runs: Path, typed: Typed) -> None:
    assert typed("table", runs)[1].strip() == kdbench.table(runs).strip()
    printed = typed("table", runs, "--layout", "paper", "--format", "csv")[1]
    assert printed.strip() == kdbench.table(str(runs), layout="paper", form="csv").strip()
    assert typed("leaderboard", runs)[1].strip() == kdbench.leaderboard(runs).strip()


def test_a_damaged_record_is_left_out_with_a_warning(runs: Path) -> None:
    damaged = sorted(runs.rglob("record.json"))[0]
    damaged.write_text("{", encoding="utf-8")
    with pytest.warns(UserWarning, match="is left out"):
        assert kdbench.table(runs)


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(kdbench.UserError, match="no finished cells"):
        kdbench.table(tmp_path)


def test_a_mistyped_layout_or_form_is_refused(runs: Path) -> None:
    with pytest.raises(kdbench.UserError, match="papr"):
        kdbench.table(runs, layout="papr")  # type: ignore[arg-type]
    with pytest.raises(kdbench.UserError, match="tex"):
        kdbench.leaderboard(runs, form="tex")  # type: ignore[arg-type]
