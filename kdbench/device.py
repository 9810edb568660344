"""The device of a run: choice, precision, determinism, and what a record says about it."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from kdbench.errors import UserError
from kdbench.protocol import Precision

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str | None) -> torch.device:
    """The named device, or the first GPU, or the CPU.

    Raises
    ------
    UserError
        The name is no device of this machine.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """The context in which forward passes run."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def be_deterministic(device: torch.device) -> None:
    """Make results repeat on the same hardware; on the CPU they do so by themselves."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the device's allocator since the run began, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, code state and hardware, as plain values."""
    packages = ("kdbench", "torch", "torchvision", "timm", "numpy")
    commit, dirty = _git()
    return {
        "versions": {name: metadata.version(name) for name in packages} | {"python": platform.python_version()},
        "commit": commit,
        "dirty": dirty,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }


def _git() -> tuple[str | None, bool | None]:
    """Commit and whether the tree differs from it, where kdbench runs from a checkout."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None, None

    def ask(*words: str) -> str:
        answer = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)  # noqa: S603, S607
        return answer.stdout.strip()

    try:
        return ask("rev-parse", "HEAD"), bool(ask("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
