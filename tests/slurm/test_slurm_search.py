"""A search on a real Slurm: submitted at once, each stage an array that waits for the one before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cells import Typed
from slurm_cluster.cluster import Cluster, wait_for
from slurm_study import Study

from kdbench.experiment.folder import RECORD

pytestmark = pytest.mark.once

GRID = """
pairs = ["resnet14>resnet8"]
methods = ["ce", "kd"]
seeds = 1
epochs = 1
[search]
trials = 2
epochs = 1
[search.space.ce]
label_smoothing = [0.0, 0.1]
[search.space.kd]
temperature = [2.0, 8.0]
"""


def test_a_search_is_submitted_at_once(cluster: Cluster, typed: Typed, tiny_npz: Path) -> None:
    """Trials are cancelled: their stages end without them, those of the other method go on, and ``retry`` does both."""
    study = Study(typed, tiny_npz, GRID, "[students]\ncells_per_job = 4\nparallelism = 4\n")
    out, _ = study.type("submit", "--profile", "profile.toml", "--save-every", "0.5")
    arrays = dict(re.findall(r"^(\w+): job (\d+), \d tasks?$", out, flags=re.MULTILINE))
    assert arrays.keys() == {"teacher", "cache", "trials", "students", "best", "final"}
    for stage, before in (("best", "trials"), ("final", "best")):
        assert f"{stage}: job {arrays[stage]}, 2 tasks" in out
        waits = cluster.ask(f"squeue -h -r -j {arrays[stage]} -o %E").splitlines()
        assert len(waits) == 2
        assert all(f"afterany:{arrays[before]}_" in text for text in waits), waits
    out, _ = typed("grid", "submit", "grid.toml", "--profile", "profile.toml")[1:]
    assert "nothing is left to run here" in out
    (trials,) = [
        job
        for job, task in (
            line.split() for line in cluster.ask(f"squeue -h -r -t PD -j {arrays['trials']} -o '%i %E'").splitlines()
        )
        if arrays["teacher"] in task
    ]
    cluster.ask(f"scancel {trials}")
    wait_for(lambda: not cluster.ask("squeue -h -t PENDING,RUNNING,COMPLETING"), "all jobs to end", 300)
    out, _ = study.type("status")
    assert re.search(r"^trials +2/4 +2 lost *$", out, flags=re.MULTILINE), out
    assert re.search(r"^best, with further seeds +4/8 +4 *$", out, flags=re.MULTILINE), out
    assert re.search(r"^chosen settings +1/2 +1 *$", out, flags=re.MULTILINE), out
    assert len(re.findall(rf"lost +kd .*seed 10001: job {trials} CANCELLED", out)) == 2
    ends = _times(cluster)
    for stage, before in (("best", "trials"), ("final", "best")):
        last = max(end for job, (_, end) in ends.items() if job.startswith(f"{arrays[before]}_") and job != trials)
        assert min(start for job, (start, _) in ends.items() if job.startswith(f"{arrays[stage]}_")) >= last
    out, _ = study.type("retry")
    assert {"cache", "trials", "best", "final"} == set(re.findall(r"^(\w+): job \d+", out, flags=re.MULTILINE))
    wait_for(lambda: not cluster.ask("squeue -h -t PENDING,RUNNING,COMPLETING"), "all jobs to end", 300)
    grid = study.grid
    assert not grid.waiting
    assert len(grid.cells) >= 4 + 8 + 2
    assert all((cell.folder(Path("runs")) / RECORD).exists() for cell in grid.cells)


def _times(cluster: Cluster) -> dict[str, list[str]]:
    """Start and end of each job that ran."""
    lines = cluster.ask("sacct -n -X -P -o JobID,Start,End").splitlines()
    return {job: times for job, *times in (line.split("|") for line in lines)}
