"""The demo: its grid, its table and what it says of them. The records are made by hand, in place of workers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cells import Typed
from fake_records import record_of
from report_runs import undrawn

from kdbench.cli.grid_running import OpenGrid
from kdbench.experiment.cell import Cell
from kdbench.experiment.protocol import load_protocol
from kdbench.grid.submissions import Launch
from kdbench.teachers.cards import TeacherCard
from kdbench.utils.files import write_json

V1, V2 = load_protocol("digits-demo-v1"), load_protocol("digits-demo-v2")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Cell], Launch]]:
    """What the demo starts; each start ends at once, and leaves the teacher and a record of each cell."""
    starts = []

    def start(opened: OpenGrid, cells: Sequence[Cell], profile: None, launch: Launch, *, stay: bool) -> None:
        assert stay
        starts.append((list(cells), launch))
        (trainer,) = opened.grid.to_train
        assert trainer.protocol.epochs == V2.teacher_epochs
        ref = trainer.as_teacher
        accuracy = {"weights": f"w{ref.id}", "accuracy": 99.0}
        card = TeacherCard(
            network=ref.network, id=ref.id, dataset="digits", expected=None, origin="trained here", **accuracy
        )
        write_json(Path("runs") / V2.name / "teachers" / "one" / "teacher.json", dataclasses.asdict(card))
        for cell in cells:
            top1 = 96.0 + cell.seed / 10 + (2.0 if cell.teacher else 0.0)
            write_json(cell.folder(Path("runs")) / "record.json", record_of(cell, top1))

    monkeypatch.setattr("kdbench.cli.demo.start", start)
    monkeypatch.setattr("kdbench.analysis.report.sections.draw", undrawn)
    return starts


def test_the_demo_runs_its_grid_and_says_what_the_table_means(typed: Typed, started: list[Any]) -> None:
    code, out, err = typed("demo", "--device", "cpu")
    assert code == 0, err
    ((cells, launch),) = started
    proposed = V2.demo
    assert sorted((cell.method, cell.seed) for cell in cells) == sorted(
        (method, seed) for method in proposed.methods for seed in proposed.seeds
    )
    assert launch.lockstep <= len(proposed.methods)
    assert 1 <= launch.jobs <= len(proposed.seeds)
    assert "\nkd        98." in out
    assert "+2.00" in out
    assert f"The teacher trained for {V2.teacher_epochs} epochs, the students for {V2.epochs}" in out
    assert "it does not decide which method is best" in out
    assert Path("runs/report/index.html").exists()
    assert "type 'kdbench table runs'" in out
    code, again, err = typed("demo", "--device", "cpu")
    assert code == 0, err
    assert again == out
    assert len(started) == 1


def test_the_demo_names_cells_that_are_not_finished(typed: Typed, started: list[Any]) -> None:
    assert typed("demo")[0] == 0
    path = next(Path("runs").glob(f"{V2.name}/*/kd/seed1-*/record.json"))
    path.unlink()
    (path.parent / "failed.json").write_text(json.dumps({"reason": "error", "text": "a reason"}))
    code, out, err = typed("demo")
    assert code == 2
    assert "1 cell that failed before: type 'kdbench grid retry runs/digits-demo-v2/demo.toml'" in out
    assert "kdbench: some cells are not finished: type 'kdbench grid status runs/digits-demo-v2/demo.toml'" in err


def test_the_demos_protocol_is_the_earlier_one_with_short_students_and_a_long_teacher() -> None:
    assert V2.identity() == V1.identity() | {"name": V2.name, "epochs": V2.epochs}
    assert V1.teacher_epochs is None
    assert V2.teacher_epochs is not None
    assert V2.teacher_epochs > 3 * V2.epochs
