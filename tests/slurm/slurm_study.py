"""A grid on a real Slurm, and what its one cell leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cells import Typed
from slurm_cluster.cluster import Cluster, wait_for

from kdbench.experiment.folder import RECORD, STATE
from kdbench.grid.grid import Grid
from kdbench.utils.leases import holder_of

PROFILE = """
partition = "main"
cpus = 1
memory = "500MB"
time = "60"
parallelism = 4
setup = ["export OMP_NUM_THREADS=1"]
"""
TIMES = ("train_seconds", "evaluate_seconds", "images_per_second", "peak_memory_mb")


class Study:
    """A grid's file, its profile and its runs, in a folder of their own."""

    def __init__(self, typed: Typed, npz: Path, grid: str, profile: str = "") -> None:
        self.typed = typed
        Path("grid.toml").write_text(f'protocol = "digits-demo-v1"\ndata = "npz:{npz}"\n{grid}')
        Path("profile.toml").write_text(f"{PROFILE}\n{profile}")

    def type(self, command: str, *words: object) -> tuple[str, str]:
        code, out, err = self.typed("grid", command, "grid.toml", *words)
        assert code == 0, out + err
        return out, err

    def submit(self) -> dict[str, str]:
        """Submit; the array of each stage."""
        out, _ = self.type("submit", "--profile", "profile.toml", "--save-every", "0.5")
        return dict(re.findall(r"^(\w+): job (\d+)", out, flags=re.MULTILINE))

    @property
    def grid(self) -> Grid:
        return Grid.open(Path("grid.toml"), runs=Path("runs").absolute())

    @property
    def folder(self) -> Path:
        """Of the grid's one cell."""
        (cell,) = self.grid.cells
        return cell.folder(Path("runs").absolute())

    def job_of(self, cluster: Cluster) -> str:
        """The job of the grid's one cell."""
        (manifest,) = sorted(Path("runs").glob("*/grids/grid/*/submission.json"))[-1:]
        return str(json.loads(manifest.read_text())["jobs"][-1]["id"])

    def begin(self, cluster: Cluster) -> tuple[str, int]:
        """Submit the grid's one cell and wait until it has saved a state: its job, and its process."""
        self.submit()
        wait_for((self.folder / STATE).exists, "a state")
        found = holder_of(self.folder)
        assert found
        return self.job_of(cluster), found[1].pid

    def end(self) -> dict[str, Any]:
        """Wait for the end of the grid's one cell."""
        return ended(self.folder)


ONE = 'pairs = ["resnet8>resnet8"]\nmethods = ["ce"]\nseeds = 1\nepochs = {epochs}\n'
EPOCHS = 300


def ended(folder: Path, seconds: float = 120) -> dict[str, Any]:
    """Wait for the record of a cell, and for its process to give the folder up: what may be compared."""
    wait_for((folder / RECORD).exists, "the record", seconds)
    wait_for(lambda: not list(folder.glob("claim-*")), "the end of the lease")
    return comparable(folder)


def comparable(folder: Path) -> dict[str, Any]:
    """A record without its times, and the metrics of every epoch."""
    record = json.loads((folder / RECORD).read_text())
    for name in TIMES:
        del record["cost"][name]
    del record["environment"], record["record_hash"]
    return record | {
        "metrics": (folder / "metrics.jsonl").read_text(),
        "files": sorted(p.name for p in folder.iterdir()),
    }
