"""Cells on a real Slurm that are preempted, lost, cancelled or out of time end as undisturbed ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cells import Typed
from slurm_cluster.cluster import Cluster, wait_for
from slurm_study import EPOCHS, ONE, PROFILE, Study, ended

from kdbench.experiment.folder import RECORD, STATE
from kdbench.utils.leases import holder_of

pytestmark = pytest.mark.once


def test_a_preempted_cell_goes_on(cluster: Cluster, typed: Typed, tiny_npz: Path, quiet: dict[str, Any]) -> None:
    study = Study(typed, tiny_npz, ONE.format(epochs=EPOCHS))
    job, _ = study.begin(cluster)
    status = study.type("status")[0]
    holder = re.search(rf"running +ce resnet8 seed 1: .*job {job} on \S+ since .{{16}}; log: (.*)", status)
    assert holder, status
    log = Path(holder[1])
    assert f"process {holder_of(study.folder)[1].pid}," in log.read_text()  # type: ignore[index]
    assert (
        cluster.ask(f"squeue -h -j {job} -o %k") == f"logs: {log.parent.absolute()}; states: {Path('runs').absolute()}"
    )
    node = cluster.node_of(job)
    other = cluster.ask(f"sbatch --parsable -p high -w {node} --exclusive --wrap 'sleep 2'")
    wait_for(lambda: "COMPLETED" in cluster.state(other), "the other job")
    cluster.release(job)
    assert study.end() == quiet
    text = log.read_text()
    assert "saved in epoch" in text
    assert "Requeued job" in text
    assert "restarts=1" in text


def test_a_job_whose_node_dies_goes_on(cluster: Cluster, typed: Typed, tiny_npz: Path, quiet: dict[str, Any]) -> None:
    study = Study(typed, tiny_npz, ONE.format(epochs=EPOCHS))
    job, pid = study.begin(cluster)
    node = cluster.node_of(job)
    cluster.node("crash", node)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the process to die")
    out, _ = study.type("status")
    assert "1 cell: 1 running" in out or "1 queued" in out or "1 lost" in out
    cluster.ask(f"scontrol update NodeName={node} State=DOWN Reason=test")
    cluster.release(job)
    assert study.end() == quiet
    cluster.node("up", node)
    cluster.ask(f"scontrol update NodeName={node} State=RESUME")


def test_of_two_live_starts_of_one_job_only_the_later_writes(
    cluster: Cluster, typed: Typed, tiny_npz: Path, quiet: dict[str, Any]
) -> None:
    """The node is lost, its job lives on, and Slurm starts the cell a second time."""
    study = Study(typed, tiny_npz, ONE.format(epochs=EPOCHS))
    job, pid = study.begin(cluster)
    node = cluster.node_of(job)
    os.kill(pid, signal.SIGSTOP)
    try:
        cluster.node("lost", node)
        cluster.ask(f"scontrol update NodeName={node} State=DOWN Reason=test")
        cluster.release(job)
        wait_for(lambda: (found := holder_of(study.folder)) and found[1].pid != pid, "the second start")
        found = holder_of(study.folder)
        assert found
        assert found[1].job
        assert found[1].job.restarts == 1
        state = (study.folder / STATE).stat().st_mtime_ns
        wait_for(
            lambda: (study.folder / RECORD).exists() or (study.folder / STATE).stat().st_mtime_ns != state,
            "the second start to save",
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    assert study.end() == quiet
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the first start to stop")
    assert study.end() == quiet
    cluster.node("up", node)
    cluster.ask(f"scontrol update NodeName={node} State=RESUME")


def test_cancelled_cells_can_be_tried_again(
    cluster: Cluster, typed: Typed, tiny_npz: Path, quiet: dict[str, Any]
) -> None:
    study = Study(typed, tiny_npz, ONE.format(epochs=EPOCHS))
    job, _ = study.begin(cluster)
    cluster.ask(f"scancel {job}")
    wait_for(lambda: "CANCELLED" in cluster.state(job), "the job to be cancelled")
    wait_for(lambda: holder_of(study.folder) is None, "the cell to be saved")
    out, _ = study.type("status")
    assert re.search(rf"lost +ce resnet8 seed 1: epoch \d+/{EPOCHS}, .* job {job} CANCELLED; log: .*_0_log\.out", out)
    out, _ = study.type("retry")
    assert "submitted 1 cell:" in out
    assert study.end() == quiet
    out, _ = study.type("retry")
    assert "nothing to retry: no cell has failed or is lost" in out


@pytest.fixture(scope="module")
def timed_out(cluster: Cluster, tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cell whose job reaches its time limit while another test runs; its process sleeps meanwhile."""
    folder = tmp_path_factory.mktemp("limit")
    (folder / "grid.toml").write_text(
        f'protocol = "digits-demo-v1"\ndata = "npz:{tiny_npz}"\n{ONE.format(epochs=EPOCHS)}'
    )
    (folder / "profile.toml").write_text(PROFILE.replace('time = "60"', 'time = "2"'))
    command = [sys.executable, "-m", "kdbench", "grid", "submit", "grid.toml", "--profile", "profile.toml"]
    done = subprocess.run(
        [*command, "--save-every", "0.5"], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr

    def sleep_through_the_limit() -> None:
        (job,) = re.findall(r"students: job (\d+)", done.stdout)
        wait_for(lambda: list(folder.glob("runs/*/none-resnet8/*/*/state")), "a state")
        (state,) = folder.glob("runs/*/none-resnet8/*/*/state")
        holder = holder_of(state.parent)
        assert holder
        pid = holder[1].pid
        os.kill(pid, signal.SIGSTOP)  # Slurm wakes it up to give it the signal
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the limit", 150)
        cluster.release(job)

    sleeper = threading.Thread(target=sleep_through_the_limit)
    sleeper.start()
    yield folder
    sleeper.join()


@pytest.mark.usefixtures("timed_out")
def test_many_tiny_cells_through_one_array(cluster: Cluster, typed: Typed, tiny_npz: Path) -> None:
    study = Study(
        typed,
        tiny_npz,
        'pairs = ["resnet8>resnet8"]\nmethods = ["ce"]\nseeds = 60\nepochs = 1\n',
        "[students]\ncells_per_job = 10\nparallelism = 3\n",
    )
    out, _ = study.type("submit", "--profile", "profile.toml")
    submitted = re.search(r"^students: job (\d+), 6 tasks, at most 3 at a time", out, flags=re.MULTILINE)
    assert submitted
    most = 0

    def over() -> bool:
        nonlocal most
        states = cluster.ask(f"squeue -h -r -j {submitted[1]} -o %T").splitlines()
        most = max(most, states.count("RUNNING"))
        return not states

    wait_for(over, "60 cells", 400)
    assert most == 3
    assert "60 cells: 60 done" in study.type("status")[0]


def test_a_job_that_reaches_its_time_limit_goes_on(timed_out: Path, quiet: dict[str, Any]) -> None:
    """The limit is two minutes: below submitit's ten, it calls every signal a time-out."""
    (folder,) = timed_out.glob("runs/*/none-resnet8/*/*/")
    assert ended(folder, 300) == quiet
    (log,) = timed_out.glob("runs/*/grids/grid/*/*.out")
    assert "this job is timed-out" in log.read_text()
    assert "restarts=1" in log.read_text()
