"""Fixtures of tests on a real Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from slurm_cluster.cluster import Cluster, running
from slurm_study import EPOCHS, ONE, comparable

from kdbench.engine.display import Display
from kdbench.grid.grid import Grid
from kdbench.grid.worker import Worker, Workload
from kdbench.utils.scheduler import Scheduler


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running(accounting=True) as found:
        yield found


@pytest.fixture(scope="module")
def quiet(cluster: Cluster, tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the cell of ``ONE`` leaves if nothing disturbs it."""

    folder = tmp_path_factory.mktemp("quiet")
    file = folder / "grid.toml"
    file.write_text(f'protocol = "digits-demo-v1"\ndata = "npz:{tiny_npz}"\n{ONE.format(epochs=EPOCHS)}')
    grid = Grid.open(file, runs=folder / "runs")
    values = {"protocol": "digits-demo-v1", "data": f"npz:{tiny_npz}", "epochs": EPOCHS, "runs": folder / "runs"}
    Worker(Workload(session=values, cells=grid.cells), Scheduler(), Display(Console(quiet=True))).run()
    return comparable(grid.cells[0].folder(folder / "runs"))
