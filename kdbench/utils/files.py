"""Files that are whole or absent: atomic writes of text and JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdbench.errors import UserError

_UMASK = os.umask(0o077)
"""Read once: it can only be read by setting it, for all threads."""
os.umask(_UMASK)


@contextlib.contextmanager
def explain_os_errors(path: Path, elsewhere: str = "choose another folder with --runs DIR") -> Iterator[None]:
    """Turn an error of the operating system while writing into a message that says what to do."""
    try:
        yield
    except OSError as error:
        reason = {
            errno.ENOSPC: "no space is left on the disk: free some, then type the same command to resume",
            errno.EDQUOT: "the disk quota is used up: free some space, then type the same command to resume",
            errno.EFBIG: "the file would exceed the size limit: raise it, then type the same command to resume",
            errno.EROFS: f"the file system is read-only: {elsewhere}",
            errno.EACCES: f"permission denied: {elsewhere}",
            errno.EPERM: f"permission denied: {elsewhere}",
        }.get(error.errno or 0, f"{error.strerror or error}: {elsewhere}")
        raise UserError(f"cannot write {path}: {reason}") from None


def write_atomic(
    path: Path,
    data: bytes | str,
    elsewhere: str = "choose another folder with --runs DIR",
    *,
    permit: Callable[[], None] = lambda: None,
) -> None:
    """Write a file so that after any interruption the old or the new content is there, whole.

    Parameters
    ----------
    permit
        Called right before the file takes its place; what it raises leaves the old content in place.

    Raises
    ------
    UserError
        The disk is full, read-only, or not writable for this user; the old content is untouched.
    """
    content = data.encode() if isinstance(data, str) else data
    with explain_os_errors(path, elsewhere):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_UMASK)
            permit()
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any, *, permit: Callable[[], None] = lambda: None) -> None:
    """Write a value as readable JSON, atomically; NaN raises ValueError."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n", permit=permit)


def unfinished_writes(path: Path) -> list[Path]:
    """Return the temporary files that :func:`write_atomic` left behind where its process was killed."""
    return list(path.parent.glob(f".{path.name}.*.tmp"))


def free_space(folder: Path) -> int:
    """Bytes that are free where a folder is or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
