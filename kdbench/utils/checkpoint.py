"""Save and load states with a checksum: whole or absent, and read without running code."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, final

import torch

from kdbench.errors import UserError
from kdbench.utils.files import atomic_file, explain_os_errors
from kdbench.utils.reading import Missing, Unreadable, opened

_MAGIC = b"kdbench-state-1 "
_PART = 2**20
"""Bytes that are read at a time."""


def state_names(name: str) -> tuple[str, ...]:
    """Return the names of the files in which a state and the one before it are kept."""
    return name, f"{name}.previous", f"{name}.new"


def save_state(path: Path, state: dict[str, Any], *, permit: Callable[[], None] = lambda: None) -> None:
    """Save tensors and plain values with a checksum; keep the state before as ``.previous``."""
    fresh, previous = path.with_name(path.name + ".new"), path.with_name(path.name + ".previous")
    permit()
    with explain_os_errors(path):
        if path.exists():
            previous.unlink(missing_ok=True)  # the disk never has to hold three states
        with atomic_file(fresh, permit=permit) as file:
            file.write(_header(hashlib.sha256()))  # as long as the one that takes its place
            payload = _Payload(file)
            torch.save(state, payload)  # type: ignore[arg-type]  # it calls write and flush
            payload.check()
            file.seek(0)
            file.write(_header(payload.digest))
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
    with opened(path) as file:
        digest = hashlib.sha256()
        header = file.read(len(_header(digest)))
        while part := file.read(_PART):
            digest.update(part)
        if header != _header(digest):
            raise Unreadable("is damaged")
        file.seek(len(header))
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError):
            raise Unreadable("is damaged") from None
    if not isinstance(state, dict):
        raise Unreadable("is damaged")
    return state


def _header(digest: hashlib._Hash) -> bytes:
    return _MAGIC + digest.hexdigest().encode() + b"\n"


@final
class _Payload:
    """Writes to a file what PyTorch saves, part by part, and hashes it: a state has gigabytes, and is never copied.

    An error of the system is raised by `check`: PyTorch would put another in its place.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file
        self._error: OSError | None = None

    def write(self, part: memoryview) -> int:
        """Write what follows."""
        if self._error is None:
            try:
                self._file.write(part)
            except OSError as error:
                self._error = error
            self.digest.update(part)
        return len(part)

    def flush(self) -> None:
        """Do nothing: the file is flushed when it has its header."""

    def check(self) -> None:
        """Raise the error that kept the file from being written, if there was one."""
        if self._error is not None:
            raise self._error
