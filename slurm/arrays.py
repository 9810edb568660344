"""Job arrays: the parameters of sbatch, and the jobs that each of their tasks waits for."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.grid.worker import Workload

from .profile import Resources

_SAVE_BEFORE = 120
"""Seconds before the time limit at which a job is told to save, where the limit leaves room for that."""


@dataclass(slots=True)
class Piece:
    """A job to submit: its workload, the cells that it serves, and the jobs that it waits for."""

    workload: Workload
    cells: tuple[Cell, ...]
    after_ok: list[str] = field(default_factory=list)
    after_any: list[str] = field(default_factory=list)

    @property
    def dependency(self) -> str:
        """Return the dependency in sbatch's notation."""
        return ",".join([f"afterok:{job}" for job in self.after_ok] + [f"afterany:{job}" for job in self.after_any])


def parameters(
    name: str, resources: Resources, devices: int, setup: list[str], held: bool, comment: str
) -> dict[str, Any]:
    """Translate a profile into submitit's parameters, for jobs of so many tasks.

    Parameters
    ----------
    comment
        What ``scontrol show job`` and ``squeue -o %k`` say of them, unless the profile has a comment.
    """
    further: dict[str, Any] = {"kill-on-invalid-dep": "yes", "requeue": True, "comment": comment, **resources.sbatch}
    for key in ("partition", "account", "qos", "gres"):
        if value := getattr(resources, key):
            further[key] = value
    if held:
        further["hold"] = True
    if resources.memory:
        further["mem"] = resources.memory
    tasks, step = {}, []
    if devices > 1:
        tasks = {"nodes": resources.nodes, "ntasks_per_node": devices // resources.nodes}
        step = ["--kill-on-bad-exit=1"]  # the others could not go on
    return {
        "job_name": re.sub(r"[^\w.-]", "_", name),
        "time": resources.minutes,
        "cpus_per_task": resources.cpus,
        "array_parallelism": resources.parallelism,
        "signal_delay_s": min(_SAVE_BEFORE, resources.minutes * 60 // 4),
        "setup": [f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{resources.cpus}}}", *resources.setup, *setup],
        "stderr_to_stdout": True,
        "srun_args": [f"--cpus-per-task={resources.cpus}", *step],  # a step does not inherit it since Slurm 22.05
        **tasks,
        "additional_parameters": further,
    }


def set_dependencies(job_ids: Sequence[str], dependencies: Sequence[str]) -> None:
    """Let each job of an array wait for what its dependency names, in sbatch's notation; empty for nothing."""
    by_dependency: dict[str, list[str]] = {}
    for job_id, dependency in zip(job_ids, dependencies, strict=True):
        by_dependency.setdefault(dependency, []).append(job_id)
    for dependency, dependents in by_dependency.items():
        if dependency:
            change_job("update", f"JobId={array_notation(dependents)}", f"Dependency={dependency}")


def array_notation(job_ids: list[str]) -> str:
    """Write tasks of one array as Slurm does: ``12_[0-3,7]``."""
    array, _, first = job_ids[0].partition("_")
    if not first:
        return array
    ranges: list[list[int]] = []
    for number in sorted(int(job_id.partition("_")[2]) for job_id in job_ids):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return f"{array}_[{','.join(str(a) if a == b else f'{a}-{b}' for a, b in ranges)}]"


def change_job(*words: str) -> None:
    """Let Slurm change a job, trying again while it is busy."""
    for pause in (0.5, 2.0, 5.0, None):
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
        if done.returncode == 0:
            return
        if pause is not None:
            time.sleep(pause)
    raise UserError(
        f"Slurm does not accept 'scontrol {' '.join(words)}': {done.stderr.strip()}; nothing is left in the queue"
    )
