"""Fixtures of tests of grids."""

from __future__ import annotations

from pathlib import Path

import pytest
from estimated_grids import opened, write_grid


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory, tiny_npz: Path) -> tuple[Path, Path]:
    """A grid's file with four seeds, and a folder of runs in which two of them are done, with a cache."""
    folder = tmp_path_factory.mktemp("grid")
    file = write_grid(folder / "small.toml")
    grid, _ = opened(file, tiny_npz, folder / "runs")
    grid.session.train_teacher("resnet14")
    outcomes = grid.session.run_all(grid.cells, cache="on")
    assert all(isinstance(outcome, dict) for outcome in outcomes)
    return write_grid(file, seeds=4), folder / "runs"
