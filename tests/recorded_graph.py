"""A stand-in for CUDA graphs on the CPU, as strict as the real ones: what is recorded is not done, and a replay does
the recorded operations again on the memory that they were recorded with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)


class RecordedGraph:
    """In place of ``torch.cuda.CUDAGraph``."""

    replays = 0

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def register_generator_state(self, generator: torch.Generator) -> None:
        assert isinstance(generator, torch.Generator)

    def pool(self) -> object:
        return self

    @torch.no_grad()
    def replay(self) -> None:
        assert self.calls
        RecordedGraph.replays += 1
        for func, args, kwargs, recorded in self.calls:
            for old, new in zip(recorded, tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.detach().copy_(new)


class record(TorchDispatchMode):  # noqa: N801 - in place of torch.cuda.graph
    def __init__(self, graph: RecordedGraph, pool: object = None, stream: object = None) -> None:
        super().__init__()
        self.graph = graph
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            # Batch norm changes its running statistics and does not say so.
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written or argument.name in {"running_mean", "running_var"}:
                self.before += [(t, t.clone()) for t in tensors(given.get(argument.name))]
        result = func(*args, **kwargs)
        self.graph.calls.append((func, args, kwargs, list(tensors(result))))
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        with torch.no_grad():
            for tensor, value in reversed(self.before):
                tensor.detach().copy_(value)
