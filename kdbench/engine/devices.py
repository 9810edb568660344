"""The devices of a cell: which of them is this process's, and what share of the machine it may use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Self, final

import torch

from kdbench.errors import UserError
from kdbench.utils.device import pick_device
from kdbench.utils.resources import owned_cpus
from kdbench.utils.text import counted

MAX_DEVICES: Final = 4096
"""Far beyond the groups of a batch."""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Which of the processes that torchrun or Slurm has started this one is."""

    rank: int
    size: int
    local_rank: int
    """Among those of this machine."""
    local_size: int
    """Of them on this machine."""

    @classmethod
    def of_launch(cls) -> Self | None:
        """Read it from the environment; None where this process was started by itself."""
        if "SLURM_STEP_NUM_TASKS" in os.environ and "WORLD_SIZE" not in os.environ:
            if int(os.environ["SLURM_STEP_NUM_TASKS"]) == 1:
                return None
            from submitit.helpers import TorchDistributedEnvironment  # noqa: PLC0415 - only under Slurm

            job = TorchDistributedEnvironment()
            for name in ("master_addr", "master_port", "rank", "world_size", "local_rank", "local_world_size"):
                os.environ.setdefault(name.upper(), str(getattr(job, name)))  # a profile may name another address
        names = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
        try:
            rank, size, *local = (int(os.environ[name]) for name in names)
        except (KeyError, ValueError):
            return None
        return cls(rank, size, *local) if size > 1 else None


def check_started(devices: int) -> Place | None:
    """Return which of the processes of a launch this one is; None where it was started by itself.

    Raises
    ------
    UserError
        Another number of processes was started than there are devices for a cell.
    """
    place = Place.of_launch() if devices > 1 else None
    if place and place.size != devices:
        raise UserError(
            f"--devices {devices}, but {place.size} processes were started: start {devices}, or one, which starts the "
            "others by itself"
        )
    return place


def device_of(name: str | None, devices: int, place: Place | None, *, compiling: bool) -> torch.device:
    """Return the device of this process, one of several for a cell.

    Raises
    ------
    UserError
        There are fewer, one of them is named, or CUDA graphs are wanted of all of them.
    """
    several = devices > 1 and torch.cuda.is_available()
    if several and name in (None, "cuda"):
        num_here = torch.cuda.device_count()
        if num_here < devices and not place:
            raise UserError(
                f"--devices {devices}: this machine has {counted(num_here, 'GPU')}, as this process sees it"
            )
        device = pick_device(f"cuda:{place.local_rank % num_here if place else 0}", compiling=compiling)
        torch.cuda.set_device(device)
    else:
        device = pick_device(name, compiling=compiling)
        if several and device.type == "cuda":
            raise UserError(f"--device {name} names one device, and --devices {devices} wants several: leave one out")
    if several and compiling and device.type == "cuda":
        raise UserError(f"--compile records a step on one GPU: leave it or --devices {devices} out")
    return device


def share_machine(devices: int, place: Place | None, workers: int | None) -> int | None:
    """Give this process its share of the machine's threads; return the processes that decode images for it.

    Parameters
    ----------
    workers
        What the user wants; None for a share of the CPUs.
    """
    if devices == 1:
        return workers
    if not place:  # torchrun and Slurm have seen to it
        torch.set_num_threads(max(1, torch.get_num_threads() // devices))
    here = devices if not place else 1 if "SLURM_CPUS_PER_TASK" in os.environ else place.local_size
    return max(1, owned_cpus() // here) if workers is None else workers
