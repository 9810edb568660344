"""Folders of cells with rows of metrics, as training leaves them, and a tracker that notes what it is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tomli_w
from fake_records import fake_record

from kdbench.analysis.tracking.cells import Row, TrackedCell
from kdbench.analysis.tracking.tracker import Tracker
from kdbench.experiment.protocol import load_protocol

EPOCHS = 3
RULES = load_protocol("digits-demo-v1").override(epochs=EPOCHS)


def row(epoch: int, top1: float = 50.0) -> dict[str, float]:
    """A line of ``metrics.jsonl``."""
    return {"epoch": epoch, "lr": 0.125, "loss/ce": 1.0 / 2**epoch, "loss/a>b, c": 2.0, "top1": top1 + epoch}


def write_rows(folder: Path, rows: Sequence[dict[str, float]], tail: str = "", name: str = "metrics.jsonl") -> None:
    """Write lines of metrics, and what a half-written one has."""
    (folder / name).write_text("".join(f"{json.dumps(each)}\n" for each in rows) + tail)


def begin_cell(runs: Path, method: str = "kd", seed: int = 1) -> tuple[Path, dict[str, Any]]:
    """The folder of a cell that was started, and the record that it will leave."""
    record = fake_record(method, seed, 50.0 + EPOCHS, protocol=RULES, settings={"temperature": 4.0}, loss={"ce": 0.125})
    folder = runs / record["protocol"] / "resnet20-resnet8" / method / f"seed{seed}-{record['cell'][:8]}"
    folder.mkdir(parents=True)
    config = record["config"] | {"id": record["cell"], "source": "", "chosen": {}}
    (folder / "config.toml").write_text(tomli_w.dumps(config))
    return folder, record


def finish_cell(folder: Path, record: dict[str, Any]) -> None:
    """Write all rows and the record."""
    write_rows(folder, [row(epoch) for epoch in range(1, EPOCHS + 1)])
    (folder / "record.json").write_text(json.dumps(record))


class Notebook(Tracker):
    """Keep what is sent in memory."""

    NAME: ClassVar[str] = "notebook"

    def __init__(self, after_send: Callable[[], None] = lambda: None) -> None:
        self.runs: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.states: dict[str, str] = {}
        self.attempts: list[int] = []
        """That of each run that was begun or continued."""
        self.after_send = after_send

    @property
    def place(self) -> str:
        return "a notebook"

    @property
    def view(self) -> str:
        return "'cat'"

    def begin(self, cell: TrackedCell, num_sent: int, attempt: int) -> int:
        self.attempts.append(attempt)
        rows = self.runs.setdefault(cell.id, [])
        del rows[num_sent:]
        return len(rows)

    def send(self, cell: TrackedCell, rows: Sequence[Row]) -> None:
        self.runs[cell.id] += [(each.step, each.values) for each in rows]
        self.states[cell.id] = cell.state
        self.after_send()

    def close(self) -> None:
        self.after_send = lambda: None
