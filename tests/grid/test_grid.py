"""Grids: what their files may say, the teachers they need, and the states of their cells."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cells import Typed
from fake_records import record_of
from safetensors.torch import load_file, save_file
from slurm_cluster.cluster import wait_for
from test_grid_files import write

from kdbench.engine.environment import code_state
from kdbench.experiment.folder import CONFIG, FAILURE, RECORD, STATE
from kdbench.grid.grid import Grid
from kdbench.grid.job import GridJob, progress_mark
from kdbench.grid.states import State, explain, survey
from kdbench.grid.submissions import Launch, read_submissions
from kdbench.grid.worker import Workload
from kdbench.utils.leases import Leases
from kdbench.utils.scheduler import Scheduler

SMALL = 'protocol = "digits-demo-v1"\npairs = ["{pairs}"]\nmethods = ["{methods}"]\nseeds = {seeds}\nepochs = 1\n'


@pytest.fixture
def studied(typed: Typed, tiny_npz: Path) -> Any:
    """Write a small grid's file and type a command on it; returns all that is printed, and the exit code."""

    def run(command: str, *words: object, **keys: Any) -> str:
        grid = {"protocol": "digits-demo-v1", "pairs": ["resnet14>resnet8"], "methods": ["ce"], "seeds": 1, "epochs": 1}
        Path("grid.toml").write_text(tomli_w.dumps(grid | {"data": f"npz:{tiny_npz}"} | keys))
        code, out, err = typed("grid", command, "grid.toml", *words)
        return f"{out}{err}exit code {code}"

    return run


def records() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path("runs").glob(f"**/{RECORD}")}


def test_a_grid_is_run_extended_and_narrowed(studied: Any) -> None:
    """The teacher is trained once; what is done counts in every grid that has it."""
    both = ["ce", "kd"]
    out = studied("run", "--save-every", "0.5", methods=both, seeds=2)
    assert "done    kd resnet14>resnet8 seed 2: " in out
    assert "all done: type 'kdbench table runs' to compare the cells" in out
    first = records()
    assert len(first) == 5
    for record in map(json.loads, first.values()):
        assert record["environment"].items() >= code_state().items()
    assert "4 cells: 4 done\n" in studied("status", methods=both, seeds=2)
    assert "6 cells: 4 done, 2 to do" in studied("plan", methods=both, seeds=3)
    assert studied("run", "--jobs", "2", methods=both, seeds=3).count("done    ") == 2
    assert "1 cell: 1 done" in studied("plan", methods=["kd"], seeds=[2])
    assert "nothing is left to run" in studied("run", methods=["kd"])
    last = records()
    assert len(last) == 7
    assert first.items() <= last.items()
    assert not list(Path("runs").glob("*/grids/*/*/code"))


def test_one_failed_cell_stops_no_other_and_can_be_tried_again(studied: Any) -> None:
    keys = {"methods": ["kd"], "method": {"kd": {"kd_weight": [1e38, 0.5]}}}
    out = studied("run", **keys)
    assert "failed  kd kd_weight=1e+38 resnet14>resnet8 seed 1: diverged in epoch 1 at step " in out
    assert "done    kd kd_weight=0.5 resnet14>resnet8 seed 1: " in out
    assert "1 failed of 2 cells: type 'kdbench grid status grid.toml' to see why" in out
    assert "exit code 2" in out
    for command in (("run",), ("submit", "--cluster", "local")):
        out = studied(*command, **keys)
        assert "skipped 1 cell that failed before: type 'kdbench grid retry grid.toml' to run them again" in out
        assert "nothing is left to run" not in out
        assert "1 failed of 2 cells: type 'kdbench grid status grid.toml' to see why" in out
        assert out.endswith("exit code 2")
    (failure,) = Path("runs").glob(f"**/{FAILURE}")
    assert re.search(rf"failed +kd kd_weight=1e\+38 .*: diverged in .*; log: {failure}", studied("status", **keys))
    failure.write_text(json.dumps({"reason": "error", "text": "a tree fell"}))
    assert "error: a tree fell" in studied("status", **keys)
    assert "diverged" in studied("retry", **keys)
    assert "diverged" in failure.read_text()


def test_students_of_a_teacher_that_failed_are_not_run(studied: Any) -> None:
    keys = {"methods": ["ce", "kd"]}
    assert "exit code 0" in studied("run", **keys)
    for path in Path("runs/digits-demo-v1/teachers").glob("*/*"):
        path.unlink()
    (record,) = Path("runs").glob(f"*/none-resnet14/*/*/{RECORD}")
    record.unlink()
    (record.parent / FAILURE).write_text(json.dumps({"reason": "error", "text": "a tree fell"}))
    out = studied("run", **keys, seeds=[1, 2])
    assert "done    ce resnet8 seed 2" in out
    assert "1 not finished of 4 cells" in out
    assert "teacher failed  ce resnet14 seed 0: error: a tree fell" in studied("status", **keys)
    assert "done    kd resnet14>resnet8 seed 2" in studied("retry", **keys, seeds=[1, 2])


def test_an_imported_teacher_is_found_and_two_have_to_be_told_apart(studied: Any, typed: Typed, tiny_npz: Path) -> None:
    assert "exit code 0" in studied("run", methods=["kd"])
    (weights,) = Path("runs/digits-demo-v1/teachers").glob("*/model.safetensors")
    words = ["--protocol", "digits-demo-v1", "--network", "resnet14", "--data", f"npz:{tiny_npz}", "--runs"]
    assert typed("teacher", "import", weights, *words, "other")[0] == 0
    assert "1 cell: 1 to do" in studied("plan", "--runs", "other", methods=["kd"])
    grid = Grid.open(Path("grid.toml"), runs=Path("other"))
    assert not grid.to_train
    assert [teacher.card.imported for teacher in grid.teachers.values() if teacher.card] == [True]
    moved = {name: value * 1.01 if name.endswith("fc.weight") else value for name, value in load_file(weights).items()}
    save_file(moved, "moved.safetensors")
    assert typed("teacher", "import", "moved.safetensors", *words, "runs")[0] == 0
    out = studied("plan", methods=["kd"])
    spec = re.search(r"pairs = \"resnet14\": 2 teachers match: write one of (resnet14@\w+) .*imported from", out)
    assert spec
    assert "1 cell: 1 " in studied("plan", methods=["kd"], pairs=[f"{spec[1]}>resnet8"])


def test_workers_go_on_by_themselves_and_can_be_cancelled(studied: Any) -> None:
    long = {"epochs": 4000}
    studied("plan", **long)
    command = [sys.executable, "-m", "kdbench", "grid", "submit", "grid.toml", "--cluster", "local"]
    done = subprocess.run([*command, "--save-every", "0.2"], capture_output=True, text=True, check=False, timeout=120)
    assert "started 1 worker in the background" in done.stdout, done.stderr
    assert re.search(r"(running|queued) +ce resnet8 seed 1: ", studied("status", **long))
    wait_for(lambda: "1 running" in studied("status", **long), "the cell to run")
    wait_for(lambda: list(Path("runs").glob(f"**/{STATE}")), "a state")
    assert "stopping worker-1 (process " in studied("cancel", **long)
    wait_for(lambda: "1 lost" in studied("status", **long), "the worker to stop")
    assert re.search(
        r"lost +ce resnet8 seed 1: epoch \d+/4000, .*; stopped before it was finished; logs: ",
        studied("status", **long),
    )
    assert "nothing to cancel" in studied("cancel", **long)


def test_a_submission_of_an_earlier_version_is_read_and_written_alike(tmp_path: Path) -> None:
    """The keys are those that submissions have on disk."""
    text = SMALL.format(pairs="resnet14>resnet8", methods="ce", seeds=2)
    grid = Grid.open(write(tmp_path / "grid.toml", text), runs=tmp_path)
    launch = {"jobs": 2, "together": 3, "cache": "off", "device": "cpu", "compile": False, "save_every": 0.5}
    manifest: dict[str, Any] = {"kind": "local", "cluster": "", "profile": {}, "launch": launch}
    manifest["jobs"] = [{"id": "worker-1", "stage": "all", "cells": [cell.id for cell in grid.cells]}]
    path = tmp_path / "digits-demo-v1" / "grids" / "grid" / "0001-local" / "submission.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest))
    (submission,), damages = read_submissions(grid)
    assert not damages
    assert submission.launcher == "local"
    assert submission.launch == Launch(jobs=2, lockstep=3, cache="off", device="cpu", save_every=0.5)
    assert [job.cells for job in submission.jobs] == [tuple(cell.id for cell in grid.cells)]
    submission.write()
    assert json.loads(path.read_text()) == manifest


def test_states(tmp_path: Path) -> None:
    text = SMALL.format(pairs="resnet14>resnet8", methods="ce", seeds=8)
    grid = Grid.open(write(tmp_path / "grid.toml", text), runs=tmp_path)
    folders = [cell.folder(tmp_path) for cell in grid.cells]
    for folder in folders[:6]:
        folder.mkdir(parents=True)
    (folders[0] / RECORD).write_text(json.dumps(record_of(grid.cells[0], 71.25)))
    (folders[1] / FAILURE).write_text(json.dumps({"reason": "out of memory", "text": "CUDA\nmore"}))
    (folders[2] / CONFIG).write_text("")
    (folders[2] / STATE).write_text("")
    (folders[2] / "metrics.jsonl").write_text('{"epoch": 1, "top1": 12.5}\n')
    (folders[5] / CONFIG).write_text("")
    queued = {grid.cells[5].id: "job 7 PENDING", grid.cells[6].id: "job 8 PENDING"}
    gone = {grid.cells[2].id: "job 6 TIMEOUT", grid.cells[7].id: "job 6 TIMEOUT"}
    with Leases() as leases:
        leases.hold(folders[3])
        (folders[3] / FAILURE).write_text("{}")  # of an earlier try
        statuses = survey(grid.cells, tmp_path, Scheduler(), queued, gone)
    states = [status.state for status in statuses]
    assert states == [
        State.DONE, State.FAILED, State.LOST, State.RUNNING, State.PLANNED, State.QUEUED, State.QUEUED, State.LOST,
    ]  # fmt: skip
    told = [explain(status) for status in statuses]
    assert told[0] == "71.25 % after 1 epoch"
    assert told[1] == f"out of memory: CUDA; log: {folders[1] / FAILURE}"
    assert told[2] == "epoch 1/1, 12.50 %; job 6 TIMEOUT"
    assert re.fullmatch(r"process \d+ on \S+ since [\d-]+ [\d:]+", told[3])
    assert told[4:] == ["", "job 7 PENDING", "job 8 PENDING", "job 6 TIMEOUT"]


def test_a_job_that_is_started_in_vain_is_given_up(tmp_path: Path) -> None:
    """Three starts in a row without a state or a record; progress sets the count back."""
    text = SMALL.format(pairs="resnet14>resnet8", methods="ce", seeds=1)
    grid = Grid.open(write(tmp_path / "grid.toml", text), runs=tmp_path)
    (cell,) = grid.cells
    job = GridJob(Workload(session={"runs": str(tmp_path)}, cells=grid.cells))
    cell.folder(tmp_path).mkdir(parents=True)
    state = cell.folder(tmp_path) / STATE

    def start(*, saves: bool) -> bool:
        """Whether the job is started again."""
        job.mark = progress_mark(job.workload)
        if saves:
            state.write_text("")
            os.utime(state, ns=(0, time.monotonic_ns()))
        return job.checkpoint() is not None

    assert [start(saves=saves) for saves in (False, False, True, False, False, False)] == [True] * 5 + [False]
