"""What a job may use of its machine: CPUs, and the memory through which processes hand over arrays."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import Final

SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - no temporary file is made here: Linux keeps shared memory there


def owned_cpus() -> int:
    """Return the number of CPUs that this job owns: those it may run on, and no more than Slurm gave the task."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cpus = os.cpu_count() or 1
    with contextlib.suppress(KeyError, ValueError):
        cpus = min(cpus, max(1, int(os.environ["SLURM_CPUS_PER_TASK"])))
    return cpus


def free_shared_memory() -> int | None:
    """Return the bytes that are free for memory shared between processes; None where the system sets no limit."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None
