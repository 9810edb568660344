"""Fixtures of tests of verification."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from trained_runs import TrainedRuns


@pytest.fixture(scope="module")
def two_cells(trained_runs: TrainedRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with two cells, their teacher and its cell."""
    runs = tmp_path_factory.mktemp("verified") / "runs"
    shutil.copytree(trained_runs.runs, runs, ignore=shutil.ignore_patterns("none-timm*", "none-torchvision*"))
    return runs


@pytest.fixture
def runs(two_cells: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    return Path(shutil.copytree(two_cells, tmp_path / "runs"))
