"""Folders that others delete meanwhile are as good as absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cells import Typed
from fake_records import fake_record, write_records

from kdbench.analysis import records
from kdbench.teachers.cards import protocols_with_teachers
from kdbench.utils.files import paths_in
from kdbench.utils.leases import tidy


def test_paths_are_those_of_the_shell_and_hidden_ones(tmp_path: Path) -> None:
    for name in ("b[1]/x", "b[1]/.y", "a/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert paths_in(tmp_path, "*/x") == [tmp_path / "a/x", tmp_path / "b[1]/x"]
    assert paths_in(tmp_path / "b[1]", "*") == [tmp_path / "b[1]/.y", tmp_path / "b[1]/x"]
    assert paths_in(tmp_path, "*/") == [tmp_path / "a", tmp_path / "b[1]"]
    assert paths_in(tmp_path / "none", "*") == []


@pytest.fixture
def vanishing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Delete a folder when its parent has just been listed."""
    scandir = os.scandir

    def delete(doomed: Path) -> None:
        def scan(folder: Any) -> Any:
            entries = scandir(folder)
            if not isinstance(folder, int) and Path(folder) == doomed.parent and doomed.exists():
                listed = list(entries)
                shutil.rmtree(doomed)
                return Listed(listed)
            return entries

        monkeypatch.setattr(os, "scandir", scan)

    return delete


class Listed(list[Any]):
    """What ``os.scandir`` returns, after the folder was read."""

    def __enter__(self) -> Listed:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_folder_that_vanishes_is_absent(vanishing: Callable[[Path], None], tmp_path: Path) -> None:
    for name in ("gone", "stays"):
        (tmp_path / name / "teachers" / "one").mkdir(parents=True)
        (tmp_path / name / "teachers" / "one" / "teacher.json").write_text("{}")
    vanishing(tmp_path / "gone")
    assert protocols_with_teachers(tmp_path) == ["stays"]
    vanishing(tmp_path / "stays" / "teachers")
    tidy(tmp_path / "stays")


@pytest.mark.parametrize("name", ["record.json", "config.toml"])
@pytest.mark.parametrize("command", ["table", "leaderboard"])
def test_tables_leave_out_what_was_deleted_meanwhile(
    name: str, command: str, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder was listed with the file, which is gone when it is to be read."""
    write_records(tmp_path / "runs", [fake_record("kd", seed, 70.0) for seed in (1, 2)])
    gone = tmp_path / "runs" / "seed3-01234567"
    gone.mkdir()
    (gone / name).write_text(json.dumps(fake_record("kd", 3, 10.0)))
    listed = records.folders_below

    def folders(*given: Any) -> Any:
        for folder, names in listed(*given):
            if Path(folder).name == gone.name:
                shutil.rmtree(gone)
            yield folder, names

    monkeypatch.setattr(records, "folders_below", folders)
    code, out, err = typed(command, "runs")
    assert (code, err) == (0, "")
    assert "10.00" not in out
