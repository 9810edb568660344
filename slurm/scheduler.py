"""What Slurm says about jobs: squeue for those it remembers, sacct for those it has forgotten."""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import final

from kdbench.utils.scheduler import Job, Scheduler

_FIELDS = ("JobArrayID", "State", "RestartCnt", "Reason")
_OVER = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"}
)
_NOT_STARTED = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
_SECONDS = 60
"""How long a command of Slurm's may take."""


@dataclass(frozen=True, slots=True)
class Known:
    """What Slurm says about a job."""

    state: str
    restarts: int = 0
    reason: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended and will not be started again."""
        return self.state in _OVER

    @property
    def started(self) -> bool:
        """Whether it has been started and not ended."""
        return not self.over and self.state not in _NOT_STARTED

    def __str__(self) -> str:
        reason = "" if self.reason in ("", "None") else f" ({self.reason})"
        return f"{self.state}{reason}"


@final
class Slurm(Scheduler):
    """The Slurm that this machine belongs to, if any."""

    @cached_property
    def _config(self) -> dict[str, str]:
        """Its configuration; empty where there is no Slurm, or its controller does not answer."""
        lines = (line.partition("=") for line in (ask("scontrol", "show", "config") or "").splitlines())
        return {key.strip(): value.strip() for key, _, value in lines}

    @property
    def cluster(self) -> str | None:
        """Its name; None where there is no Slurm, or its controller does not answer."""
        return self._config.get("ClusterName")

    @property
    def array_limit(self) -> int:
        """The most tasks that an array may have."""
        return int(self._config.get("MaxArraySize", "1001")) - 1

    def own_job(self) -> Job | None:
        """The job that this process was started by."""
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        number = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")
        if not number:
            return None
        return Job(
            cluster=os.environ.get("SLURM_CLUSTER_NAME", ""),
            id=number,
            restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            user=getpass.getuser(),
        )

    def alive(self, jobs: Collection[Job]) -> dict[Job, bool]:
        """Whether these starts go on. Slurm may hide other users' jobs: what it does not show of them is not known."""
        ours = [job for job in jobs if job.cluster == self.cluster]
        known = self.jobs({job.user for job in ours}) if ours else None
        if known is None:
            return {}
        me, said = getpass.getuser(), {}
        for job in ours:
            found = known.get(job.id)
            if found:
                said[job] = found.started and found.restarts == job.restarts
            elif job.user == me:
                said[job] = False
        return said

    def jobs(self, users: Iterable[str]) -> dict[str, Known] | None:
        """What Slurm remembers of users' jobs, by id (``12`` or ``12_3``); None where it cannot be asked."""
        form = ",".join(f"{field}:|" for field in _FIELDS)
        said = ask("squeue", "-h", "-r", "-t", "all", "-u", ",".join(sorted(users)), "-O", form)
        if said is None:
            return None
        found = {}
        for line in said.splitlines():
            number, state, restarts, reason, *_ = (word.strip() for word in line.split("|"))
            found[number] = Known(state, int(restarts or 0), reason)
        return found

    def ended(self, jobs: Iterable[str]) -> dict[str, Known]:
        """How jobs ended that Slurm's controller has forgotten, as far as its accounting knows."""
        arrays = sorted({number.partition("_")[0] for number in jobs})
        if not arrays:
            return {}
        said = ask("sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", ",".join(arrays))
        pairs = (line.split("|") for line in (said or "").splitlines() if line.count("|") == 1)
        return {number: Known(state.partition(" ")[0]) for number, state in pairs}


def ask(*command: str) -> str | None:
    """Run one of Slurm's commands; None where there is none, or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout  # noqa: S603 - no shell
    except (OSError, subprocess.SubprocessError):
        return None
