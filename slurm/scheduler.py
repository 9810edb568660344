"""Ask Slurm about jobs: squeue for those that it remembers, sacct for those that it has forgotten."""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import final

from kdbench.utils.scheduler import Job, JobState, Scheduler

_FIELDS = ("JobArrayID", "State", "RestartCnt", "Reason")
_OVER = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"}
)
_NOT_STARTED = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
_TIMEOUT_SECONDS = 60
"""Time limit of one of Slurm's commands."""


@final
class Slurm(Scheduler):
    """Ask the Slurm that this machine belongs to, if any."""

    @cached_property
    def _config(self) -> dict[str, str]:
        """Read Slurm's configuration; empty where there is no Slurm, or its controller does not answer."""
        lines = (line.partition("=") for line in (run_command("scontrol", "show", "config") or "").splitlines())
        return {key.strip(): value.strip() for key, _, value in lines}

    @property
    def cluster(self) -> str | None:
        """Return the cluster's name; None where there is no Slurm, or its controller does not answer."""
        return self._config.get("ClusterName")

    @property
    def array_limit(self) -> int:
        """Return the maximum number of tasks of an array."""
        return int(self._config.get("MaxArraySize", "1001")) - 1

    def own_job(self) -> Job | None:
        """Return the job that started this process."""
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        job_id = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")
        if not job_id:
            return None
        return Job(
            cluster=os.environ.get("SLURM_CLUSTER_NAME", ""),
            id=job_id,
            restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            user=getpass.getuser(),
        )

    def alive(self, jobs: Collection[Job]) -> dict[Job, bool]:
        """Return whether starts of jobs are still running, without those that are unknown.

        Slurm may hide other users' jobs: one that it does not show is unknown.
        """
        here = [job for job in jobs if job.cluster == self.cluster]
        states = self.jobs({job.user for job in here}) if here else None
        if states is None:
            return {}
        me = getpass.getuser()
        running: dict[Job, bool] = {}
        for job in here:
            state = states.get(job.id)
            if state:
                running[job] = state.started and state.restarts == job.restarts
            elif job.user == me:
                running[job] = False
        return running

    def jobs(self, users: Iterable[str]) -> dict[str, JobState] | None:
        """Return the states of users' jobs by id (``12`` or ``12_3``); None where Slurm does not answer."""
        columns = ",".join(f"{field}:|" for field in _FIELDS)
        output = run_command("squeue", "-h", "-r", "-t", "all", "-u", ",".join(sorted(users)), "-O", columns)
        if output is None:
            return None
        states = {}
        for line in output.splitlines():
            job_id, state, restarts, reason, *_ = (word.strip() for word in line.split("|"))
            states[job_id] = _job_state(state, reason, int(restarts or 0))
        return states

    def ended(self, jobs: Iterable[str]) -> dict[str, JobState]:
        """Return how jobs ended that Slurm's controller has forgotten, as far as its accounting knows."""
        arrays = sorted({job_id.partition("_")[0] for job_id in jobs})
        if not arrays:
            return {}
        output = run_command("sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", ",".join(arrays))
        rows = (line.split("|") for line in (output or "").splitlines() if line.count("|") == 1)
        return {job_id: _job_state(state.partition(" ")[0]) for job_id, state in rows}


def _job_state(state: str, reason: str = "", restarts: int = 0) -> JobState:
    over = state in _OVER
    return JobState(
        text=state if reason in ("", "None") else f"{state} ({reason})",
        started=not over and state not in _NOT_STARTED,
        over=over,
        restarts=restarts,
    )


def run_command(*command: str) -> str | None:
    """Run one of Slurm's commands and return its output; None where it does not exist or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_SECONDS)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
