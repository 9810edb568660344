"""Save and load states with a checksum: whole or absent, and read without running code."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdbench.errors import UserError
from kdbench.utils.files import explain_os_errors, write_atomic
from kdbench.utils.reading import Missing, Unreadable, read_bytes

_MAGIC = b"kdbench-state-1 "


def state_names(name: str) -> tuple[str, ...]:
    """Return the names of the files in which a state and the one before it are kept."""
    return name, f"{name}.previous", f"{name}.new"


def save_state(path: Path, state: dict[str, Any], *, permit: Callable[[], None] = lambda: None) -> None:
    """Save tensors and plain values with a checksum; keep the state before as ``.previous``."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    fresh, previous = path.with_name(path.name + ".new"), path.with_name(path.name + ".previous")
    permit()
    with explain_os_errors(path):
        if path.exists():
            previous.unlink(missing_ok=True)  # the disk never has to hold three states
        write_atomic(fresh, _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload, permit=permit)
        if path.exists():
            path.replace(previous)
        fresh.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """Return the newest whole state, or None if none was saved.

    Raises
    ------
    UserError
        The newest state is damaged; the message says how to resume from the one before.
    """
    previous = path.with_name(path.name + ".previous")
    for candidate in (path, previous):
        try:
            return _read(candidate)
        except Missing:
            continue
        except Unreadable as error:
            before = candidate == path and previous.exists()
            remedy = "resume from the state before it" if before else "start from the beginning"
            raise UserError(f"{candidate} {error}: delete that file to {remedy}") from None
    return None


def _read(path: Path) -> dict[str, Any]:
    header, _, payload = read_bytes(path).partition(b"\n")
    if header != _MAGIC + hashlib.sha256(payload).hexdigest().encode():
        raise Unreadable("is damaged")
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        raise Unreadable("is damaged") from None
    if not isinstance(state, dict):
        raise Unreadable("is damaged")
    return state
