"""Finds what makes a step wait for the device, which no CUDA graph can record either, while it runs on the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_VALUE = "it waits for the value of a tensor"
_READERS = frozenset({Tensor.tolist, Tensor.numpy, Tensor.__array__})
"""What reads memory on the CPU without an operation of its own."""


class Waits(Exception):
    """An operation waits for the device."""


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Raise Waits inside, where the value of a tensor decides what is done next or how large a result is."""
    with _Calls(), _Operations():  # type: ignore[no-untyped-call]
        yield


@final
class _Operations(TorchDispatchMode):
    """Looks at the operations that PyTorch itself marks, those of backward passes among them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if torch.Tag.data_dependent_output in func.tags:
            raise Waits(_VALUE)
        if torch.Tag.dynamic_output_shape in func.tags and not _by_numbers(func, args):
            raise Waits("it waits for a shape that depends on values")
        return func(*args, **(kwargs or {}))


@final
class _Calls(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _READERS:
            raise Waits(_VALUE)
        return func(*args, **(kwargs or {}))


def _by_numbers(func: Any, args: Sequence[Any]) -> bool:
    """Return whether an operation picks rows by their numbers, whose count is known, and not by a mask."""
    masks = (torch.bool, torch.uint8)
    return func is torch.ops.aten.index.Tensor and all(each is None or each.dtype not in masks for each in args[1])
