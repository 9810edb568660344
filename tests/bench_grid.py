"""Start-up of the command line, and large grids: seconds, and MB of memory as extra information."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_records import record_of
from timed_command import timed

from kdbench.experiment.folder import CONFIG, RECORD
from kdbench.grid.grid import Grid

# 13 pairs and 6 methods; students alone are shared by the pairs that have them: 99,900 cells.
TEXT = """
protocol = "cifar100-crd-v1"
pairs = ["crd-same-family", "crd-different-family"]
methods = ["ce", "kd", "crd", "reviewkd", "dkd", "pckd"]
seeds = 1350
"""


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    (folder / "big.toml").write_text(TEXT)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine cells in ten have a record, as large as they are."""
    folder = tmp_path_factory.mktemp("done")
    (folder / "big.toml").write_text(TEXT)
    grid = Grid.open(folder / "big.toml", runs=folder / "runs")
    assert len(grid.cells) == 99_900
    for number, cell in enumerate(grid.cells):
        place = cell.folder(folder / "runs")
        place.mkdir(parents=True)
        (place / CONFIG).write_text("")
        if number % 10:
            (place / RECORD).write_text(json.dumps(record_of(cell, 70.0)))
    return folder


def test_help(benchmark: Any) -> None:
    timed(benchmark, "--help")


@pytest.mark.parametrize("command", ["plan", "status"])
@pytest.mark.parametrize("state", ["planned", "done"])
def test_100000_cells(benchmark: Any, command: str, state: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(state)
    benchmark.extra_info["MB"] = timed(
        benchmark, "grid", command, str(folder / "big.toml"), "--runs", str(folder / "runs")
    )
