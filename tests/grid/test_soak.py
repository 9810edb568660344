"""Grids whose workers are killed at random, and that are run twice at once, end like quiet ones."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cells import METHODS

from kdbench.experiment.folder import RECORD
from kdbench.utils.leases import holder_of

pytestmark = pytest.mark.once

TIMES = ("train_seconds", "evaluate_seconds", "images_per_second", "peak_memory_mb")
KILLS = 5
SEEDS = 3
# A few methods of every kind: what is tried here does not depend on their number.
CHOSEN = ("ce", "kd", "dkd", "crd", "reviewkd", "pckd")


@contextlib.contextmanager
def grid_run(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """``kdbench grid run`` in a folder; it and its workers are gone afterwards."""
    command = [sys.executable, "-m", "kdbench", "grid", "run", "grid.toml", "--save-every", "0", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests are run under nohup
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGHUP, hangup)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        while pids := started(folder):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def started(folder: Path) -> list[int]:
    """Return the processes of all workers, those that are still beginning as well: their commands name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if os.fsencode(folder) in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def worker_pids(folder: Path) -> list[int]:
    """Return the processes of the workers that have begun."""
    found = (holder_of(place) for place in sorted(folder.glob("runs/*/grids/*/*/worker-*")))
    return [holder.pid for _, holder in filter(None, found) if Path(f"/proc/{holder.pid}").exists()]


def write_grid(folder: Path, npz: Path, seeds: int) -> None:
    settings = {name: METHODS[name] for name in CHOSEN if METHODS[name]}
    grid = {"protocol": "digits-demo-v1", "pairs": ["resnet14>resnet8", "resnet8>wrn_16_1"], "methods": list(CHOSEN)}
    folder.mkdir()
    (folder / "grid.toml").write_text(
        tomli_w.dumps(grid | {"seeds": seeds, "epochs": 6, "data": f"npz:{npz}", "method": settings})
    )


def left(folder: Path) -> dict[str, Any]:
    """Every record by its cell, without its times and without what depends on who built the cache first."""
    records = {}
    for path in folder.glob(f"runs/**/{RECORD}"):
        record = json.loads(path.read_bytes())
        for name in TIMES:
            del record["cost"][name]
        del record["record_hash"]  # it covers the times
        records[record["cell"]] = record | {"metrics": path.with_name("metrics.jsonl").read_text()}
    return records


def ends_in_logs(folder: Path) -> Counter[str]:
    """How often workers said that a cell came to its end."""
    texts = [path.read_text() for path in folder.glob("runs/*/grids/*/*/worker-*/*_log.out")]
    return Counter(re.findall(r"^(.* seed \d+): [\d.]+ % after 6 epochs, in", "\n".join(texts), flags=re.MULTILINE))


@pytest.fixture(scope="module")
def quiet(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Records of 36 cells, and of the two that train their teachers, that nothing disturbed."""
    folder = tmp_path_factory.mktemp("quiet") / "grid"
    write_grid(folder, tiny_npz, seeds=SEEDS)
    with grid_run(folder, "--jobs", "2") as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "all done" in out
    records = left(folder)
    assert len(records) == 38
    return records


def kill_workers(folder: Path, process: subprocess.Popen[str], chance: random.Random, number: int) -> int:
    """Kill a worker at random moments, this often; returns how often it came to that.

    Each moment follows another record: so there are as many on a fast machine as on a slow one, and workers never die
    so fast that a cell is put aside before it can be saved.
    """
    deadline = time.monotonic() + 400
    killed, done = 0, num_records(folder)
    while process.poll() is None and killed < number:
        assert time.monotonic() < deadline
        if num_records(folder) == done:
            time.sleep(0.05)
            continue
        time.sleep(chance.uniform(0.0, 1.0))
        done = num_records(folder)
        if pids := worker_pids(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
                killed += 1
    return killed


def num_records(folder: Path) -> int:
    return len(list(folder.glob(f"runs/**/{RECORD}")))


def leftovers(folder: Path) -> list[Path]:
    """Leases, states, half-written files and builds, and copies of the code."""
    names = re.compile(r"claim-\d+|state(\..+)?|\..+\.tmp|.+\.partial|code")
    return [path for path in folder.glob("runs/**/*") if names.fullmatch(path.name)]


def test_workers_are_killed_at_random(tiny_npz: Path, tmp_path: Path, quiet: dict[str, Any]) -> None:
    """And once everything at a time, the command that watches them as well; nothing is left over."""
    folder = tmp_path / "grid"
    write_grid(folder, tiny_npz, seeds=SEEDS)
    chance = random.Random(20261124)
    with grid_run(folder, "--jobs", "2") as process:
        killed = kill_workers(folder, process, chance, KILLS // 2)
        assert process.poll() is None
    assert leftovers(folder)
    with grid_run(folder, "--jobs", "2") as process:
        killed += kill_workers(folder, process, chance, KILLS - KILLS // 2)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert killed == KILLS
    assert "crashed: a new one resumes its cells" in out
    assert left(folder) == quiet
    assert max(ends_in_logs(folder).values()) == 1
    assert not leftovers(folder)


def test_the_same_grid_is_run_twice_at_once(tiny_npz: Path, tmp_path: Path, quiet: dict[str, Any]) -> None:
    folder = tmp_path / "grid"
    write_grid(folder, tiny_npz, seeds=2)
    with grid_run(folder) as one, grid_run(folder) as two:
        for process in (one, two):
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            assert "24/24" in out or "all done" in out
    records = left(folder)
    assert len(records) == 26
    assert records == {cell: quiet[cell] for cell in records}
    ends = ends_in_logs(folder)
    assert len(ends) == 26
    assert set(ends.values()) == {1}
    logs = [path.read_text() for path in folder.glob("runs/*/grids/*/*/worker-1/*_log.out")]
    assert len(logs) == 2
    assert all(re.search(r"[1-9]\d* cells done, 0 failed, 0 left", log) for log in logs)
    assert not leftovers(folder)


@pytest.mark.parametrize(
    ("when", "signum"),
    [("runs/*/grids/*/*/worker-2/start.log", signal.SIGINT), (f"runs/**/{RECORD}", signal.SIGHUP)],
)
def test_ctrl_c_and_a_closed_terminal_save_and_leave_no_process(
    when: str, signum: signal.Signals, tiny_npz: Path, tmp_path: Path
) -> None:
    """While workers are being started, and while they work."""
    folder = tmp_path / "grid"
    write_grid(folder, tiny_npz, seeds=SEEDS)
    with grid_run(folder, "--jobs", "2") as process:
        deadline = time.monotonic() + 100
        while not list(folder.glob(when)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        pids = worker_pids(folder)
        process.send_signal(signum)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 128 + signum
    assert "stopping: the running cells are being saved" in out
    assert "type the same command to resume" in err
    assert len(pids) == (2 if RECORD in when else 0)
    assert not list(folder.glob("runs/**/.*.tmp"))
    assert num_records(folder) < 38
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not list(folder.glob("runs/**/claim-*"))
