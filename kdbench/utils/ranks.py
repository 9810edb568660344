"""The processes that compute one cell together, each on a device of its own, and what they say to each other.

One of them, rank 0, leads: it decides, writes and prints. All of them call the same functions here in the same order.
What they send is numbers, tensors and JSON; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final, final

import torch
from torch import Tensor, distributed
from torch.distributed import Store  # type: ignore[attr-defined]

from kdbench.errors import UserError
from kdbench.utils.text import one_line

_GRADIENTS: Final = timedelta(minutes=30)
"""How long a process waits for the gradients of the others: all of them have agreed to send theirs."""
_WORDS: Final = timedelta(days=30)
"""How long it waits for a word, such as while another one builds a cache. One that has ended is not waited for."""


class RankLost(UserError):
    """Another process of a cell has ended, or cannot be reached: this one cannot go on."""

    reason = "lost"


@final
class Ranks:
    """A number of processes, of which this is one.

    Parameters
    ----------
    words
        The group in which they exchange what is small, on the CPU.
    """

    def __init__(self, rank: int = 0, size: int = 1, words: Any = None) -> None:
        self.rank, self.size, self._words = rank, size, words
        self._lost = ""

    @property
    def leads(self) -> bool:
        """Whether this process decides, writes and prints."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors over all processes, in place; each process gets the same sums."""
        if self.size == 1 or not tensors:
            return
        with self.unbroken():
            for kind in _by_dtype(tensors):
                flat = torch.cat([tensor.reshape(-1) for tensor in kind])
                distributed.all_reduce(flat)
                _take_apart(flat, kind)

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the values that the leading one has, in place."""
        if self.size == 1 or not tensors:
            return
        with self.unbroken():
            for kind in _by_dtype(tensors):
                flat = torch.cat([tensor.reshape(-1) for tensor in kind])
                distributed.broadcast(flat, 0)
                _take_apart(flat, kind)

    def gather(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return the tensors of each process, by rank; they may differ in number and shape, not in dtype."""
        if self.size == 1 or not tensors:
            return [list(tensors)]
        shapes = self.tell_all([list(tensor.shape) for tensor in tensors])
        with self.unbroken():
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            sizes = [[torch.Size(shape).numel() for shape in each] for each in shapes]
            longest = max(map(sum, sizes))
            padded = torch.cat([flat, flat.new_zeros(longest - len(flat))])
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            distributed.all_gather(parts, padded)
        return [
            [values.view(shape) for values, shape in zip(part[: sum(size)].split(size), each, strict=True)]
            for part, size, each in zip(parts, sizes, shapes, strict=True)
        ]

    def highest(self, numbers: Sequence[int]) -> list[int]:
        """Return the highest of each number over all processes."""
        if self.size == 1:
            return list(numbers)
        with self.unbroken():
            values = torch.tensor(list(numbers), dtype=torch.int64)
            distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self._words)
        return [int(value) for value in values]

    def tell(self, value: Any) -> Any:
        """Return what the leading process gave, plain values; what the others give is not looked at."""
        return self.tell_all(value)[0]

    def tell_all(self, value: Any) -> list[Any]:
        """Return what each process gave, plain values, by rank."""
        if self.size == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        (longest,) = self.highest([len(text)])
        with self.unbroken():
            padded = torch.full((longest,), ord(" "), dtype=torch.uint8)
            padded[: len(text)] = text
            texts = [torch.empty_like(padded) for _ in range(self.size)]
            distributed.all_gather(texts, padded, group=self._words)
        return [json.loads(bytes(text.tolist())) for text in texts]

    def leave(self) -> None:
        """Part from the other processes, and wait for the threads that have exchanged something with them.

        One that is left when Python ends may bring the process down: it lets go of a tensor, for which it needs Python.
        """
        if self._words is None:
            return
        self._words = None
        _part()

    @contextlib.contextmanager
    def unbroken(self) -> Iterator[None]:
        """Do what all processes do, with what they exchange in it.

        Where it fails in one of them, that one exchanges nothing any more: the others may be at another place by then.
        """
        if self.size == 1:
            yield
            return
        if self._lost:
            raise RankLost(self._lost)
        try:
            yield
        except RankLost:
            raise
        except Exception as error:
            self._lost = f"the processes of a cell cannot go on together ({one_line(error)})"
            raise RankLost(self._lost) from None


ALONE: Final = Ranks()
"""One process by itself."""


def join(rank: int, size: int, device: torch.device, store: Store) -> Ranks:
    """Meet the other processes of a launch, which know each other by a store.

    Raises
    ------
    RankLost
        They cannot be reached.
    """
    try:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=_GRADIENTS, rank=rank, world_size=size, store=store)
        words = distributed.new_group(backend="gloo", timeout=_WORDS)
    except Exception as error:
        _part()
        raise RankLost(f"the processes of a cell did not meet ({one_line(error)})") from None
    return Ranks(rank, size, words)


def _part() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _by_dtype(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    return list(kinds.values())


def _take_apart(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
