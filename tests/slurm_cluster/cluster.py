"""A real Slurm of several nodes on this machine, loopback only: start.sh, stop.sh and node.sh, for tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CANNOT_RUN = 77


class Cluster:
    """A running cluster: four nodes n1 to n4 of 4 CPUs; partition ``high`` preempts ``main``."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.root, self.environment = root, environment

    def ask(self, command: str) -> str:
        """What a command of Slurm's prints."""
        done = subprocess.run(
            command, shell=True, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout.strip()

    def node(self, what: str, name: str) -> None:
        """``crash``: the node's daemon and jobs die; ``lost``: only its daemon dies; ``up``: it comes back."""
        subprocess.run([str(HERE / "node.sh"), what, name], env=self.environment, check=True, timeout=60)

    def state(self, job: str) -> str:
        """A job's state and reason."""
        return self.ask(f"squeue -h -t all -j {job} -o '%T %r'")

    def node_of(self, job: str) -> str:
        """Where a job runs."""
        return self.ask(f"squeue -h -j {job} -o %N")

    def release(self, job: str) -> None:
        """Start a requeued job now and not after Slurm's two minutes; not in the moment in which it is taken down."""
        wait_for(lambda: self.state(job).startswith("PENDING BeginTime"), f"{job} to be requeued", 90)
        time.sleep(4)
        self.ask(f"scontrol update JobId={job} StartTime=now")


def wait_for(reached: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Wait until something is so; fail after some time."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


@contextmanager
def running(*, accounting: bool) -> Iterator[Cluster]:
    """Start a cluster, point this process to it, and stop it; skips where it cannot run."""
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # unix sockets want a short path
    environment = os.environ | {
        "SLURM_TEST_DIR": str(root),
        "SLURM_TEST_PORT": str(_free_ports()),
        "SLURM_TEST_ACCT": str(int(accounting)),
    }
    started = subprocess.run(
        [str(HERE / "start.sh")], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    if started.returncode == CANNOT_RUN:
        shutil.rmtree(root, ignore_errors=True)
        pytest.skip(started.stderr.strip().splitlines()[-1])
    environment["SLURM_CONF"] = str(root / "slurm.conf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        try:
            assert started.returncode == 0, started.stderr
            yield Cluster(root, environment)
        except BaseException:
            for log in (root / "log" / "slurmctld.log", *Path().glob("runs/*/grids/*/*/*.out")):
                sys.stderr.write(f"{log}:\n{log.read_text()[-4000:]}\n")
            raise
        finally:
            stop = [str(HERE / "stop.sh"), "--fast", "--purge"]
            subprocess.run(stop, env=environment, capture_output=True, check=False, timeout=60)


def _free_ports() -> int:
    for base in range(16800, 30000, 100):
        try:
            for offset in (6, 17, 19, 21, 22, 23, 24):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise RuntimeError("no free ports")
