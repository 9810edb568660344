"""Grids whose needs are estimated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdbench.grid.grid import Grid
from kdbench.grid.overview import read_overview
from kdbench.grid.states import Status
from kdbench.utils.scheduler import Scheduler


def write_grid(path: Path, pairs: Sequence[str] = ("resnet14>resnet8",), seeds: int = 2, **lines: Any) -> Path:
    """A grid of 5 variants a pair: student only, three that read a cache, one with rotations; one that reads maps."""
    lines = {"protocol": "digits-demo-v1", "pairs": list(pairs), "seeds": seeds, "epochs": 2} | lines
    lines = {"methods": ["ce", "kd", "pckd", "reviewkd"]} | lines
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
    path.write_text(f"{text}[method.kd]\ntemperature = [2.0, 4.0]\n")
    return path


def opened(file: Path, npz: Path | None, runs: Path) -> tuple[Grid, list[Status]]:
    """A grid, and the states of its cells and of those that train its teachers."""
    scheduler = Scheduler()
    grid = Grid.open(file, runs=runs, data=f"npz:{npz}" if npz else None, device="cpu", scheduler=scheduler)
    overview = read_overview(grid, scheduler)
    return grid, [*overview.statuses, *overview.teachers]
