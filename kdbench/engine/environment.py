"""What a record says about versions, code and hardware."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch

from kdbench.utils.device import processor
from kdbench.utils.reading import Unreadable, read_json

CODE_STATE = "code.json"
"""Beside a copy of the package: the commit that it was copied from."""


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, code state and hardware, as plain values."""
    packages = ("kdbench", "torch", "torchvision", "timm", "numpy")
    return {
        "versions": {name: metadata.version(name) for name in packages} | {"python": platform.python_version()},
        **code_state(),
        "device": processor(device),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }


def code_state() -> dict[str, Any]:
    """Return the commit that kdbench runs from and whether the tree differs from it; None where that is not known.

    A copy of the code has it in a file beside the package.
    """
    folder = Path(str(resources.files("kdbench"))).parent
    unknown = {"commit": None, "dirty": None}
    with contextlib.suppress(Unreadable):
        return unknown | read_json(folder / CODE_STATE)
    if not (folder / ".git").exists():
        return unknown

    def ask(*words: str) -> str:
        answer = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)  # noqa: S603, S607
        return answer.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return unknown
