"""Grids on a real Slurm: arrays, dependencies, preemption, time limits, lost nodes. Skipped where there is none."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from cells import Typed
from slurm_cluster.cluster import Cluster, running, wait_for
from slurm_study import ONE, Study

from kdbench.experiment.folder import FAILURE, RECORD

pytestmark = pytest.mark.once


GRID = """
pairs = ["resnet14>resnet8", "resnet20>resnet8"]
methods = ["ce", "kd", "reviewkd"]
seeds = {seeds}
epochs = 2
[method.kd]
kd_weight = [0.9, 1e38]
"""
BY_TWO = "[students]\ncells_per_job = 2\nparallelism = 2\n"


def test_a_whole_grid(cluster: Cluster, typed: Typed, tiny_npz: Path) -> None:
    """Two teachers, three methods, two seeds; one setting makes its cells diverge, which stops no other."""
    study = Study(
        typed,
        tiny_npz,
        GRID.format(seeds=2),
        BY_TWO,
    )
    arrays = study.submit()
    assert arrays.keys() == {"teacher", "cache", "students"}
    waiting = re.compile(r"queued +\w+ resnet\d+>resnet8 seed \d: job \d+_\d+ PENDING \(Dependency\)")
    wait_for(lambda: waiting.search(study.type("status")[0]), "students that wait for their teacher")
    out, _ = typed("grid", "submit", "grid.toml", "--profile", "profile.toml")[1:]
    assert "skipped 14 cells, queued or running already" in out
    assert "nothing is left to run" in out
    # Longer by a seed, it has new students wait for the teachers that earlier jobs train.
    longer = Study(typed, tiny_npz, GRID.format(seeds=3), BY_TWO)
    out, _ = longer.type("submit", "--profile", "profile.toml")
    assert "teacher: " not in out
    assert "submitted 7 cells" in out
    wait_for(lambda: not cluster.ask("squeue -h -t PENDING,RUNNING,COMPLETING"), "all jobs to end", 240)
    grid = study.grid
    diverging = {c.id for c in grid.cells if c.settings.chosen.get("kd_weight") == 1e38}
    for cell in grid.cells:
        folder = cell.folder(Path("runs"))
        assert (folder / RECORD).exists() == (cell.id not in diverging)
        assert (folder / FAILURE).exists() == (cell.id in diverging)
    assert len(diverging) == 6
    out, _ = study.type("status")
    assert "21 cells: 15 done, 6 failed" in out
    assert re.search(r"failed +kd kd_weight=1e\+38 resnet20>resnet8 seed 2: diverged in .*; log: .*failed\.json", out)
    assert "'kdbench grid retry grid.toml'" in out
    # Each pair waited for its own teacher, and no more students ran at a time than were allowed.
    lines = cluster.ask("sacct -n -X -P -o JobID,State,Start,End").splitlines()
    found = {words[0]: words[1:] for words in (line.split("|") for line in lines)}
    students = [times for job, times in found.items() if job.startswith(f"{arrays['students']}_")]
    assert len(students) == 7
    moments = sorted({start for _, start, _ in students})
    assert max(sum(start <= now < end for _, start, end in students) for now in moments) <= 2
    manifests = sorted(Path("runs").glob("*/grids/grid/*/submission.json"))
    assert len(manifests) == 2
    jobs = [job for manifest in manifests for job in json.loads(manifest.read_text())["jobs"]]
    by_cell = {cell: job["id"] for job in jobs for cell in job["cells"]}
    for cell in grid.cells:
        if cell.teacher:
            teacher = found[by_cell[cell.teacher.id.removeprefix("cell:")]]
            assert found[by_cell[cell.id]][1] >= teacher[2]
    logs = [(manifest, log) for manifest in manifests for log in manifest.parent.glob("*.out")]
    assert len(logs) == 2 + 2 + 7 + 2 + 5
    for manifest, log in logs:
        assert f"kdbench {manifest.parent.absolute()}/code/kdbench, process" in log.read_text()
    # A second try runs the failed cells only, those of either submission with its profile and options.
    out, _ = study.type("retry")
    assert len(re.findall(r"^students: job \d+, ", out, flags=re.MULTILINE)) == 2
    assert "teacher: " not in out
    assert sum(map(int, re.findall(r"^submitted (\d+) cells", out, flags=re.MULTILINE))) == 6
    out, _ = study.type("cancel")
    assert re.search(r"cancelled \d+ Slurm jobs", out)


def test_what_slurm_refuses_is_said_in_one_line_and_leaves_nothing(
    cluster: Cluster, typed: Typed, tiny_npz: Path
) -> None:
    study = Study(typed, tiny_npz, ONE.format(epochs=1), '[students]\npartition = "nowhere"\n')
    code, _, err = typed("grid", "submit", "grid.toml", "--profile", "profile.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "sbatch does not accept the students jobs of profile.toml: invalid partition specified: nowhere; " in err
    assert not list(Path("runs").glob("*/grids/grid/*"))
    code, _, err = typed("grid", "submit", "grid.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "Slurm needs --profile FILE" in err
    out, _ = study.type("status")
    assert "1 cell: 1 to do" in out


def test_a_controller_that_does_not_answer(
    cluster: Cluster, typed: Typed, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was submitted may still be there, so nothing is called lost and nothing is submitted again."""
    study = Study(typed, tiny_npz, ONE.format(epochs=1), '[students]\nsbatch = { begin = "now+1hour" }\n')
    study.submit()
    for name in ("squeue", "sacct", "scancel", "scontrol"):
        dead = Path("dead") / name
        dead.parent.mkdir(exist_ok=True)
        dead.write_text("#!/bin/sh\necho Unable to contact slurm controller >&2\nexit 1\n")
        dead.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{Path('dead').absolute()}{os.pathsep}{os.environ['PATH']}")
        out, _ = study.type("status")
        assert re.search(r"queued +ce resnet8 seed 1: job \d+\n", out)
        assert "Slurm does not answer" in out
        assert "nothing to retry: no cell has failed or is lost" in study.type("retry")[0]
        code, _, err = typed("grid", "cancel", "grid.toml")
        assert code == 2
        assert err == (
            "kdbench: Slurm does not answer: no Slurm job was cancelled; type the same command again later\n"
        )
    assert "cancelled 1 Slurm job" in study.type("cancel")[0]
    wait_for(lambda: "1 cell: 1 lost" in study.type("status")[0], "the job to be gone")


def test_a_cluster_without_accounting(typed: Typed, tiny_npz: Path) -> None:
    """Nothing is known of a job that the controller has forgotten, or of why it ended: the run folders are enough."""
    with running(accounting=False) as cluster:
        assert not cluster.ask("sacct -n")
        study = Study(
            typed,
            tiny_npz,
            'pairs = ["resnet8>resnet8"]\nmethods = ["ce", "kd"]\nseeds = [1, 2]\nepochs = 1\n',
            "[students]\nparallelism = 1\n",
        )
        array = study.submit()["students"]
        cluster.ask(f"scancel {array}_3")
        wait_for(lambda: not cluster.ask("squeue -h -t PENDING,RUNNING,COMPLETING"), "all jobs to end", 240)
        out, _ = study.type("status")
        assert "4 cells: 3 done, 1 lost" in out
        assert re.search(rf"lost +kd resnet8>resnet8 seed 2: job {array}_3 CANCELLED", out)
        study.type("retry")
        wait_for(lambda: "4 cells: 4 done" in study.type("status")[0], "the cell that was cancelled")
