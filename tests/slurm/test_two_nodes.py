"""A cell on two nodes of a real Slurm: both tasks stop at the same step, and resume."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cells import Typed
from image_folder import write_folder
from slurm_cluster.cluster import Cluster, running, wait_for
from slurm_study import PROFILE, ended

from kdbench.experiment.folder import RECORD, STATE

pytestmark = pytest.mark.once

GRID = """
protocol = "imagenet-crd-v1"
data = "folder:{folder}"
pairs = ["timm:test_resnet>timm:test_resnet"]
methods = ["ce"]
seeds = 1
epochs = 60
"""
TWO_NODES = """
setup = ["export OMP_NUM_THREADS=1", "export MASTER_ADDR=127.0.0.1"]
devices_per_cell = 2
nodes = 2
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running(accounting=False) as found:
        yield found


def test_two_tasks_on_two_nodes_stop_and_resume_together(cluster: Cluster, typed: Typed, tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    Path("grid.toml").write_text(GRID.format(folder=tmp_path / "images"))
    Path("profile.toml").write_text(re.sub("setup = .*", TWO_NODES, PROFILE))
    words = ["--save-every", "0.5", "--workers", "0", "--device", "cpu"]
    code, out, err = typed("grid", "submit", "grid.toml", "--profile", "profile.toml", *words)
    assert code == 0, err
    (job,) = re.findall(r"students: job (\d+)", out)
    wait_for(lambda: list(Path("runs").glob(f"*/*/*/*/{STATE}")), "a state")
    assert re.fullmatch(r"n\[\d-\d\]", cluster.node_of(job))
    cluster.ask(f"scancel --signal=USR2 {job}")
    cluster.release(job)
    (folder,) = Path("runs").glob("*/*/ce/*/")
    ended(folder, 240)
    assert json.loads((folder / RECORD).read_text())["cost"]["devices"] == [2]
    logs = [path.read_text() for path in sorted(Path("runs").glob("*/grids/grid/*/*_log.out"))]
    assert len(logs) == 2
    assert "saved in epoch" in logs[0]
    assert "restarts=1" in logs[0]
    assert "1 cell done, 0 failed, 0 left" in logs[0]
    assert "Traceback" not in "".join(logs)
