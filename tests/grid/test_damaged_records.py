"""Records that cannot be used and disks that are full: no cell is called done, and the same command resumes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from cells import Typed
from fake_records import fake_record, record_of
from rich.console import Console
from test_cancel import make_grid, queue

from kdbench.engine.display import Display
from kdbench.experiment.folder import CONFIG, FAILURE, RECORD
from kdbench.grid import states
from kdbench.grid.job import GridJob
from kdbench.grid.states import State, explain, survey
from kdbench.grid.submissions import REPORT
from kdbench.grid.worker import Worker, Workload
from kdbench.utils import files
from kdbench.utils.scheduler import Scheduler

__all__ = ["queue"]

DAMAGES = {
    "": "is empty",
    "{": "is not readable as JSON",
    "[]": "is not a JSON object",
    "{}": "is not a kdbench record: 'config' is missing",
    "[" * 100_000: "is not readable as JSON",
    json.dumps(fake_record("kd", 1, 70.0)): "belongs to another cell",
}


@pytest.mark.parametrize(("text", "reason"), DAMAGES.items(), ids=range(len(DAMAGES)))
def test_a_record_that_cannot_be_used_is_a_failure(text: str, reason: str, typed: Typed, monkeypatch: Any) -> None:
    """Every command of a grid says so; ``retry`` runs the cell again, and loses nothing."""
    grid = make_grid(methods=["ce"], seeds=1)
    (cell,) = grid.cells
    record = cell.folder(Path("runs")) / RECORD
    record.parent.mkdir(parents=True)
    record.write_text(text)
    for command in ("plan", "status"):
        assert "1 cell: 1 failed" in typed("grid", command, "grid.toml")[1]
    out = typed("grid", "status", "grid.toml")[1]
    assert f"failed  ce resnet8 seed 1: {record} {reason}" in out
    assert "type 'kdbench grid retry grid.toml'" in out
    code, _, err = typed("grid", "run", "grid.toml")
    assert code == 2
    assert "1 failed of 1 cell: type 'kdbench grid status grid.toml' to see why" in err
    started: list[Any] = []
    monkeypatch.setattr("kdbench.cli.grid_running.start", lambda _, cells, *rest, **__: started.extend(cells))
    assert typed("grid", "retry", "grid.toml")[0] == 0
    assert [cell.id for cell in started] == [cell.id]
    assert not record.exists()
    assert record.with_name(f"damaged-{RECORD}").read_text() == text


def test_what_a_command_says_to_type_next_works_as_typed(typed: Typed, monkeypatch: Any) -> None:
    Path("my [b]grids").mkdir()
    grid = make_grid("my [b]grids/a grid", methods=["ce"], seeds=1)
    (cell,) = grid.cells
    folder = cell.folder(Path("my [b]runs"))
    folder.mkdir(parents=True)
    (folder / FAILURE).write_text("{}")
    Path("their methods").mkdir()
    given = ["--methods", "their methods", "grid"]
    code, _, err = typed(*given, "run", grid.file.path, "--runs", "my [b]runs")
    assert code == 2
    _, retry = re.findall(r"([\"\'])(kdbench .*?)\1 to", err)
    assert retry[1].startswith("kdbench --methods 'their methods' grid retry 'my [b]grids/a grid.toml' --runs")
    started: list[Any] = []
    monkeypatch.setattr("kdbench.cli.grid_running.start", lambda _, cells, *rest, **__: started.extend(cells))
    assert typed(*shlex.split(retry[1])[1:])[0] == 0
    assert [cell.id for cell in started] == [cell.id]


def test_of_very_many_records_only_the_size_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    grid = make_grid(methods=["ce"], seeds=3)
    for cell, text in zip(grid.cells, ("", "{", json.dumps(record_of(grid.cells[2], 70.0))), strict=True):
        cell.folder(Path("runs")).mkdir(parents=True)
        (cell.folder(Path("runs")) / RECORD).write_text(text)
    found = [status.state for status in survey(grid.cells, Path("runs"), Scheduler(), {}, {})]
    assert found == [State.FAILED, State.FAILED, State.DONE]
    monkeypatch.setattr(states, "_MAX_PARSED", 2)
    statuses = survey(grid.cells, Path("runs"), Scheduler(), {}, {})
    assert [status.state for status in statuses] == [State.FAILED, State.DONE, State.DONE]
    assert explain(statuses[1]) == f"{statuses[1].folder / RECORD} is damaged"


def test_a_record_that_is_deleted_meanwhile_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (cell,) = make_grid(methods=["ce"], seeds=1).cells
    record = cell.folder(Path("runs")) / RECORD
    record.parent.mkdir(parents=True)
    record.touch()
    (status,) = survey([cell], Path("runs"), Scheduler(), {}, {})
    assert (status.state, status.damage) == (State.FAILED, f"{record} is empty")
    exists = os.path.lexists

    def lexists(path: str) -> bool:
        return Path(path) != record and exists(path)

    monkeypatch.setattr(os.path, "lexists", lexists)
    (status,) = survey([cell], Path("runs"), Scheduler(), {}, {})
    assert status.state == State.PLANNED


def test_a_view_survives_records_of_the_wrong_kind(typed: Typed) -> None:
    grid = make_grid(methods=["ce"], seeds=2)
    for cell, top1, epochs in zip(grid.cells, (50.0, "50"), ("many", 1), strict=True):
        cell.folder(Path("runs")).mkdir(parents=True)
        record = record_of(cell, 50.0) | {"top1": top1, "epochs": epochs}
        (cell.folder(Path("runs")) / RECORD).write_text(json.dumps(record))
    code, out, _ = typed("grid", "status", "grid.toml")
    assert code == 0
    assert out.count("record.json is damaged: ") == 2
    make_grid(methods=["ce"], seeds=3)
    assert typed("grid", "plan", "grid.toml")[0] == 0, "their times are left out"


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """States do not fit on the disk any more, smaller files do."""

    @contextlib.contextmanager
    def full(path: Path, *words: Any, **keys: Any) -> Iterator[BinaryIO]:
        with files.atomic_file(path, *words, **keys) as file:
            yield file
            if file.seek(0, os.SEEK_END) > 20_000:
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kdbench.utils.checkpoint.atomic_file", full)


def test_a_full_disk_is_no_failure_of_a_cell(
    full_disk: None, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker stops at once, and leaves every cell to the next command."""
    monkeypatch.chdir(tmp_path)
    grid = make_grid(methods=["ce"], seeds=3, epochs=1, data=f"npz:{tiny_npz}")
    session = {"protocol": "digits-demo-v1", "data": f"npz:{tiny_npz}", "epochs": 1, "save_every": 0.0}
    workload = Workload(session=session | {"runs": str(tmp_path / "runs")}, cells=grid.cells, shared=True)
    report = Worker(workload, Scheduler(), Display(Console(quiet=True))).run()
    (text,) = report.failed
    assert "no space is left on the disk: free some, then type the same command to resume" in text
    assert (report.done, len(report.left)) == (0, 3)
    assert not list(Path("runs").glob(f"**/{FAILURE}"))
    begun = [cell.folder(Path("runs")) for cell in grid.cells if cell.folder(Path("runs")).exists()]
    assert [sorted(path.name for path in folder.iterdir()) for folder in begun] == [[CONFIG]]
    found = survey(grid.cells, Path("runs"), Scheduler(), {}, {})
    assert [status.state for status in found] == [State.LOST, State.PLANNED, State.PLANNED]
    monkeypatch.undo()
    report = Worker(workload, Scheduler(), Display(Console(quiet=True))).run()
    assert (report.done, report.failed, report.left) == (3, [], [])


def test_a_worker_ends_where_its_report_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be started again and again."""

    def full(path: Path, _: Any) -> None:
        raise files.NotWritten(f"cannot write {path}")

    monkeypatch.setattr("kdbench.grid.job.write_json", full)
    session = {"protocol": "digits-demo-v1", "runs": str(tmp_path)}
    GridJob(Workload(session=session), folder=tmp_path / "worker-1")()
    assert [path.name for path in (tmp_path / "worker-1").iterdir()] == [REPORT]
