"""The processes that compute one cell together, each on its own device, and what they say to each other.

One of them, rank 0, leads: it decides, writes and prints. All of them call the same functions here in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor

from kdbench.errors import UserError
from kdbench.utils.text import one_line

_Value = TypeVar("_Value")
_TIMEOUT: Final = timedelta(minutes=30)
"""How long a process is waited for, such as one that builds a cache."""


@final
@dataclass(frozen=True, slots=True)
class Ranks:
    """A number of processes, of which this is one."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process decides, writes and prints."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors over all processes, in place; each process gets the same sums."""
        if self.size == 1:
            return
        by_kind: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_kind.setdefault(tensor.dtype, []).append(tensor)
        for kind in by_kind.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in kind])
            dist.all_reduce(flat)
            for tensor, part in zip(kind, flat.split([tensor.numel() for tensor in kind]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def highest(self, numbers: Sequence[int]) -> list[int]:
        """Return the highest of each number over all processes."""
        if self.size == 1:
            return list(numbers)
        values = torch.tensor(list(numbers), dtype=torch.int64)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return values.tolist()

    def from_leader(self, value: _Value) -> _Value:
        """Return what the leading process gave; what the others give is not looked at."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]  # type: ignore[no-any-return]

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the values that the leading one has, in place."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, 0)

    def all(self, value: _Value) -> list[_Value]:
        """Return what each process gave, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


ALONE: Final = Ranks()
"""One process by itself."""


def join(device: torch.device) -> Ranks:
    """Meet the other processes of the launch that this one belongs to, as torchrun's environment names them.

    Raises
    ------
    UserError
        A variable is missing or no number, or the others cannot be reached.
    """
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT, rank=rank, world_size=size)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"the processes of --devices did not meet ({one_line(error)}): start them all again") from None
    return Ranks(rank, size)


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
