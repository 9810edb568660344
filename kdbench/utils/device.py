"""The device of a run: choice, precision, determinism, and what a record says about it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import resource
import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, final

import torch

from kdbench.errors import UserError
from kdbench.utils.precision import Precision

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str | None, *, compiling: bool = False) -> torch.device:
    """The named device, or the first GPU, or the CPU.

    Raises
    ------
    UserError
        The name is no device of this machine, or steps are to be compiled for the CPU and there is no compiler.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    compiler = os.environ.get("CXX", "g++")
    if compiling and device.type == "cpu" and not shutil.which(compiler):
        raise UserError(f"--compile needs a C++ compiler, and there is no {compiler}: install one, or leave it out")
    return device


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """The context in which forward passes run."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def memory_format(device: torch.device, precision: Precision) -> torch.memory_format:
    """The order of a map's values in which networks are fastest.

    On the CPU channels last made the steps of ten networks for small images 7 to 40 % shorter (``pytest
    tests/bench_layout.py``). On GPUs it is used in half precision, for which tensor cores work in this order.
    """
    faster = device.type == "cpu" or precision != "fp32"
    return torch.channels_last if faster else torch.contiguous_format


def forward_batch(device: torch.device) -> int:
    """Images in a batch that is only looked at: what fits the caches of a CPU, and what fills a GPU."""
    return 64 if device.type == "cpu" else 1024


@final
class Span(contextlib.AbstractContextManager["Span"]):
    """The time that a piece of work takes on a device, found without waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        timed = device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if timed else []
        self._wall = 0.0

    def __enter__(self) -> Span:
        if self._events:
            self._events[0].record()
        self._wall = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wall = time.perf_counter() - self._wall
        if self._events:
            self._events[1].record()

    def seconds(self) -> float:
        """Its length; on a GPU the device must have got there."""
        return self._events[0].elapsed_time(self._events[1]) / 1000 if self._events else self._wall


def be_deterministic(device: torch.device) -> None:
    """Make results repeat on the same hardware; on the CPU they do so by themselves."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep what a CPU step frees for the next one, where it is glibc's.

    It would give tensors of more than 32 MiB back to the system, which fills them with zeros, page by page, when they
    are asked for again: the sum of two maps of 64 MiB took 25 ms so, and takes 7 ms.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the device's allocator since the run began, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def processor(device: torch.device) -> str:
    """What a device is called by its maker."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
