"""The device of a run: choice, precision, determinism, timing and memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import resource
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, final

import torch

from kdbench.errors import UserError
from kdbench.utils.precision import Precision

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str | None, *, compiling: bool = False) -> torch.device:
    """Return the named device; by default the first GPU, or the CPU.

    Raises
    ------
    UserError
        This machine has no such device, or steps are to be compiled for the CPU and there is no compiler.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = textwrap.shorten(str(error).splitlines()[0], 200, placeholder=" ...")
        raise UserError(f"--device {name}: {reason}") from None
    if device.type == "meta" or (device.type == "cpu" and device.index):
        raise UserError(f"--device {name}: there is no such device; type cpu, cuda or cuda:1")
    device = torch.device("cpu") if device.type == "cpu" else device
    compiler = os.environ.get("CXX", "g++")
    if compiling and device.type == "cpu" and not shutil.which(compiler):
        raise UserError(
            f"--compile needs a C++ compiler, and {compiler} was not found: install it, or leave --compile out"
        )
    return device


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which forward passes run."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def memory_format(device: torch.device, precision: Precision) -> torch.memory_format:
    """Return the memory format in which networks are fastest.

    On the CPU channels last made the steps of ten networks for small images 7 to 40 % shorter (``pytest
    tests/bench_layout.py``). On GPUs it is used in half precision, for which tensor cores work in this order.
    """
    faster = device.type == "cpu" or precision != "fp32"
    return torch.channels_last if faster else torch.contiguous_format


def forward_batch(device: torch.device) -> int:
    """Return the batch size of forward passes without gradients: what fits a CPU's caches, or fills a GPU."""
    return 64 if device.type == "cpu" else 1024


@final
class Span(contextlib.AbstractContextManager["Span"]):
    """Time a piece of work on a device without waiting for the device."""

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
        """Return the seconds it took; on a GPU the work must have finished."""
        return self._events[0].elapsed_time(self._events[1]) / 1000 if self._events else self._wall


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def prepare_process(device: torch.device) -> torch.device:
    """Make this process ready to train on a device, which is returned.

    On a GPU, operations are made deterministic, so that results repeat on the same hardware; on the CPU they do without
    it. There, glibc is made to keep memory that a step frees. Both hold for the whole process and for all that it does
    besides, from now on.
    """
    if device.type == "cpu":
        keep_freed_memory()
    elif device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return device


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: for work so small that others, on processors that are busy, are only waited for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def keep_freed_memory() -> None:
    """Make glibc keep memory that a CPU step frees for the next step.

    By default it returns tensors of more than 32 MiB to the system, which zeroes them page by page at the next
    allocation: the sum of two maps of 64 MiB took 25 ms, and takes 7 ms with this setting.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure the peak of a GPU's memory anew; that of a process cannot be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MiB: of the device's allocator, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed, or its size was more than can be addressed."""
    words = (
        "can't allocate memory",
        "not enough memory",
        "Storage size calculation overflowed",
        "multiplication overflow",
    )
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)


def processor(device: torch.device) -> str:
    """Return the name that a device's maker gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
