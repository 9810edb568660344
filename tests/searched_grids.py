"""Grids that search, and results of their cells that were never run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w
from fake_records import record_of

from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import FAILURE, RECORD
from kdbench.grid.grid import Grid
from kdbench.search.study import Study

GRID: dict[str, Any] = {
    "protocol": "digits-demo-v1",
    "pairs": ["resnet14>resnet8"],
    "methods": ["kd"],
    "seeds": 2,
    "epochs": 2,
    "search": {"trials": 4, "epochs": 1},
}


def write_search(path: Path, search: dict[str, Any] | None = None, **lines: Any) -> Path:
    """A grid of one pair and method that searches with four trials; ``search`` and ``lines`` change it."""
    values = GRID | lines | {"search": GRID["search"] | (search or {})}
    if "rungs" in values["search"]:
        del values["search"]["epochs"]
    path.write_text(tomli_w.dumps(values))
    return path


def open_search(path: Path, search: dict[str, Any] | None = None, **lines: Any) -> Grid:
    """Write such a grid to a folder, and open it with runs beside it."""
    return Grid.open(write_search(path / "grid.toml", search, **lines), runs=path / "runs")


def score(cell: Cell, runs: Path, top1: float | None) -> None:
    """Leave what a cell would leave: its record, with this accuracy on the held-out images, or why it failed."""
    folder = cell.folder(runs)
    folder.mkdir(parents=True, exist_ok=True)
    if top1 is None:
        (folder / FAILURE).write_text(json.dumps({"reason": "diverged", "text": "diverged in epoch 1"}))
        return
    record = record_of(cell, 50.0)
    if cell.protocol.rules.evaluation.validation:
        best = {"epoch": cell.protocol.epochs, "top1": top1, "test_top1": 50.0}
        record["validation"] = {"images": 3, "top1": top1, "nll": 1.0, "best": best}
    (folder / RECORD).write_text(json.dumps(record))


def run_all(grid: Grid, best: int = 1) -> Grid:
    """Let trial ``best`` of each study win, with all seeds; returns the grid as it is then."""
    runs = grid.session.runs
    numbers = {cell.id: number for study in grid.search.studies for number, cell in _trials(study)}
    while True:
        cells = [cell for cell in grid.cells if not (cell.folder(runs) / RECORD).exists()]
        if not cells:
            return grid
        for cell in cells:
            score(cell, runs, 90.0 if numbers.get(cell.id) == best else 50.0)
        grid.search.write()
        grid.refresh()


def _trials(study: Study) -> list[tuple[int, Cell]]:
    return [
        (number, study.trial(number, rung, seed))
        for number in study.trials
        for rung in range(len(study.rungs))
        for seed in study.seeds
    ]
