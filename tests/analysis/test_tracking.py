"""What all trackers share: each row is sent once, whatever happens to the cell; without any tracker's package."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from tracked_runs import EPOCHS, Notebook, begin_cell, finish_cell, row, write_rows

from kdbench import cli
from kdbench.analysis.tracking import tracker as trackers
from kdbench.analysis.tracking.sending import Sender, Tracked
from kdbench.cli import track
from kdbench.utils.leases import Leases
from kdbench.utils.scheduler import Scheduler


def values(epoch: int, top1: float = 50.0) -> tuple[int, dict[str, float]]:
    """Step and numbers of a line of metrics."""
    return epoch, {name: number for name, number in row(epoch, top1).items() if name != "epoch"}


def look(runs: Path, out: Path, notebook: Notebook) -> Tracked:
    """Send what is new, as a process of its own would."""
    sender = Sender(runs, out, notebook)
    list(sender.send(Scheduler()))
    return sender.tracked


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Type a command; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["kdbench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_row_is_sent_once(tmp_path: Path) -> None:
    folder, record = begin_cell(tmp_path / "runs")
    notebook = Notebook()
    write_rows(folder, [{"epoch": 1, "lr": 0.5, "loss/stage": 2.0}], name="pretraining.jsonl")
    write_rows(folder, [row(1)], tail='{"epoch": 2, "lr')
    assert look(tmp_path / "runs", tmp_path / "out", notebook).num_sent == 2
    before = (1, {"pretraining/lr": 0.5, "pretraining/loss/stage": 2.0})
    assert notebook.runs == {record["cell"]: [before, values(1)]}
    assert notebook.states == {record["cell"]: "running"}
    assert look(tmp_path / "runs", tmp_path / "out", notebook).num_sent == 0
    assert len(notebook.attempts) == 1, "a cell without news was begun again"

    finish_cell(folder, record)
    tracked = look(tmp_path / "runs", tmp_path / "out", notebook)
    assert (tracked.num_cells, tracked.num_sent, tracked.num_anew, tracked.problems) == (1, EPOCHS, 0, [])
    *epochs, (step, last) = notebook.runs[record["cell"]]
    assert epochs == [before, *(values(epoch) for epoch in range(1, EPOCHS + 1))]
    assert step == EPOCHS
    assert last["record/best_top1"] == record["best_on_test"]["top1"]
    assert last["record/train_seconds"] == record["cost"]["train_seconds"]
    assert notebook.states == {record["cell"]: "finished"}
    assert look(tmp_path / "runs", tmp_path / "out", notebook).num_sent == 0


def test_rows_of_a_resumed_cell(tmp_path: Path) -> None:
    folder, record = begin_cell(tmp_path / "runs")
    notebook = Notebook()
    write_rows(folder, [row(1), row(2)])
    look(tmp_path / "runs", tmp_path / "out", notebook)
    write_rows(folder, [row(1)])  # it was resumed from a state of the second epoch
    assert look(tmp_path / "runs", tmp_path / "out", notebook).num_sent == 0
    write_rows(folder, [row(1), row(2), row(3)])
    tracked = look(tmp_path / "runs", tmp_path / "out", notebook)
    assert (tracked.num_sent, tracked.num_anew) == (1, 0)
    write_rows(folder, [row(1), row(2, top1=60.0)])  # on another device
    tracked = look(tmp_path / "runs", tmp_path / "out", notebook)
    assert (tracked.num_sent, tracked.num_anew) == (2, 1)
    assert notebook.runs[record["cell"]] == [values(1), values(2, top1=60.0)]
    assert notebook.attempts == [1, 1, 2]


def test_a_tracker_that_lost_its_rows(tmp_path: Path) -> None:
    """What somebody deleted is sent again as soon as there is something to send."""
    folder, record = begin_cell(tmp_path / "runs")
    notebook = Notebook()
    write_rows(folder, [row(1)])
    look(tmp_path / "runs", tmp_path / "out", notebook)
    notebook.runs.clear()
    write_rows(folder, [row(1), row(2)])
    assert look(tmp_path / "runs", tmp_path / "out", notebook).num_sent == 2
    assert notebook.runs[record["cell"]] == [values(1), values(2)]


def test_a_failed_cell_and_damaged_files(tmp_path: Path) -> None:
    failed, record = begin_cell(tmp_path / "runs", "kd")
    (failed / "failed.json").write_text('{"reason": "diverged"}')
    write_rows(failed, [row(1), row(2)])
    text = (failed / "metrics.jsonl").read_text()
    (failed / "metrics.jsonl").write_text(f"no JSON\n{text}[]\n")
    broken, _ = begin_cell(tmp_path / "runs", "dkd")
    (broken / "record.json").write_text("{")
    crafted, _ = begin_cell(tmp_path / "runs", "rkd")
    (crafted / "config.toml").write_text('id = "x"\n')
    notebook = Notebook()
    tracked = look(tmp_path / "runs", tmp_path / "out", notebook)
    assert notebook.runs == {record["cell"]: [values(1), values(2)]}
    assert notebook.states == {record["cell"]: "failed"}
    assert [problem.replace(str(tmp_path), "") for problem in sorted(tracked.problems)] == [
        f"/runs/digits-demo-v1/resnet20-resnet8/dkd/{broken.name}/record.json is left out: it is not readable as JSON "
        "(Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        f"/runs/digits-demo-v1/resnet20-resnet8/kd/{failed.name}/metrics.jsonl: line 1 is damaged and left out",
        f"/runs/digits-demo-v1/resnet20-resnet8/kd/{failed.name}/metrics.jsonl: line 4 is damaged and left out",
        f"/runs/digits-demo-v1/resnet20-resnet8/rkd/{crafted.name}/config.toml is left out: it does not match its "
        "cell id",
    ]


def test_settings_name_the_cell(tmp_path: Path) -> None:
    folder, record = begin_cell(tmp_path / "runs")
    cells = []

    class Reader(Notebook):
        def begin(self, cell, num_sent, attempt):  # type: ignore[no-untyped-def]
            cells.append(cell)
            return super().begin(cell, num_sent, attempt)

    look(tmp_path / "runs", tmp_path / "out", Reader())
    finish_cell(folder, record)
    look(tmp_path / "runs", tmp_path / "out", Reader())
    assert cells[0].settings == cells[1].settings
    assert cells[0].tags == cells[1].tags
    assert cells[0].name == f"digits-demo-v1/resnet20-resnet8/kd/seed1-{record['cell'][:8]}"
    expected = {"cell": record["cell"], "method": "kd", "teacher": "resnet20", "student": "resnet8", "seed": 1}
    expected |= {"settings.temperature": 4.0, "settings.version": 1, "rules.epochs": EPOCHS}
    assert expected.items() <= cells[0].settings.items()


def test_watching_until_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cell's own process writes an epoch after each that was sent, and its record after the last."""
    runs = tmp_path / "runs"
    folder, record = begin_cell(runs)
    write_rows(folder, [row(1)])
    with Leases() as leases:
        lease = leases.hold(folder)

        def train() -> None:
            done = len((folder / "metrics.jsonl").read_text().splitlines())
            if done < EPOCHS:
                write_rows(folder, [row(epoch) for epoch in range(1, done + 2)])
            elif not (folder / "record.json").exists():
                finish_cell(folder, record)
                lease.path.unlink()

        notebook = Notebook(after_send=train)
        monkeypatch.setattr(trackers, "open_tracker", lambda *_: notebook)
        monkeypatch.setattr(track, "_POLL_SECONDS", 0.0)
        assert typed(monkeypatch, "track", str(runs), "--to", "mlflow", "--out", str(tmp_path / "out"), "--watch") == 0
    assert [step for step, _ in notebook.runs[record["cell"]]] == [1, 2, 3, 3]
    assert capsys.readouterr().out.splitlines() == [
        f"1 cell: {EPOCHS + 1} rows sent to a notebook",
        "type 'cat' to see them",
    ]


def test_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    records = []
    for seed in (1, 2, 3):
        folder, record = begin_cell(runs, seed=seed)
        finish_cell(folder, record)
        records.append(record)
    notebook = Notebook(after_send=lambda: os.kill(os.getpid(), signal.SIGINT))
    monkeypatch.setattr(trackers, "open_tracker", lambda *_: notebook)
    words = ["track", str(runs), "--to", "wandb", "--out", str(tmp_path / "out")]
    assert typed(monkeypatch, *words) == 130
    message = "kdbench: 4 rows sent to a notebook: the same command sends the rest\n"
    assert capsys.readouterr().err == message
    assert len(notebook.runs) == 1
    assert typed(monkeypatch, *words) == 0
    assert "3 cells: 8 rows sent" in capsys.readouterr().out
    assert {cell: len(rows) for cell, rows in notebook.runs.items()} == {record["cell"]: 4 for record in records}


def test_two_at_once_and_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    begin_cell(runs)
    monkeypatch.setattr(trackers, "open_tracker", lambda *_: Notebook())
    words = ["track", str(runs), "--to", "trackio", "--out", str(out)]
    with Leases() as leases:
        leases.hold(Sender(runs, out, Notebook()).notes)
        assert typed(monkeypatch, *words) == 2
    assert f"{os.getpid()}" in capsys.readouterr().err
    assert typed(monkeypatch, "track", str(tmp_path / "none"), "--to", "trackio") == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    begin_cell(tmp_path / "runs")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert typed(monkeypatch, "track", str(tmp_path / "runs"), "--to", "wandb", "--out", str(tmp_path / "out")) == 2
    message = "kdbench: --to wandb needs the package wandb: type \"pip install 'kdbench[wandb]'\"\n"
    assert capsys.readouterr().err == message
    assert not (tmp_path / "out").exists()


def test_notes_that_somebody_damaged(tmp_path: Path) -> None:
    """They count as none: everything is sent, to a run that is begun anew."""
    folder, record = begin_cell(tmp_path / "runs")
    write_rows(folder, [row(1)])
    notebook = Notebook()
    look(tmp_path / "runs", tmp_path / "out", notebook)
    (note,) = (tmp_path / "out").rglob("*.json")
    assert json.loads(note.read_text())["name"].endswith(folder.name)
    for text in ("{", "[]", '{"rows": 3}', '{"rows": [3], "attempt": "x"}', '{"attempt": true, "rows": null}'):
        note.write_text(text)
        assert look(tmp_path / "runs", tmp_path / "out", notebook).num_sent == 1
        assert notebook.runs == {record["cell"]: [values(1)]}
