"""Files that are whole or absent: atomic writes of text and JSON."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from kdbench.errors import UserError
from kdbench.utils.holder import boot_id

_UMASK = os.umask(0o077)
"""Read once: it can only be read by setting it, for all threads."""
os.umask(_UMASK)
_OLD_SECONDS = 3600.0
"""Age at which a temporary file is dead where no lock can tell: the longest write takes minutes."""


class NotWritten(UserError):
    """The operating system did not let a file be written: no fault of the cell whose file it was."""


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
        raise NotWritten(f"cannot write {path}: {reason}") from None


def write_atomic(
    path: Path,
    data: bytes | memoryview | str,
    elsewhere: str = "choose another folder with --runs DIR",
    *,
    permit: Callable[[], None] = lambda: None,
) -> None:
    """Write a file so that after any interruption the old or the new content is there, whole.

    It raises as :func:`atomic_file` does.
    """
    with atomic_file(path, elsewhere, permit=permit) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic_file(
    path: Path,
    elsewhere: str = "choose another folder with --runs DIR",
    *,
    permit: Callable[[], None] = lambda: None,
) -> Iterator[BinaryIO]:
    """Open a new file for writing, which takes its place when all is written; until then the old one is there.

    Parameters
    ----------
    permit
        Called right before the file takes its place; what it raises leaves the old content in place.

    Raises
    ------
    UserError
        The disk is full, read-only, or not writable for this user; the old content is untouched.
    """
    with explain_os_errors(path, elsewhere):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path.parent, path.name) as (temporary, descriptor):
            with open(descriptor, "wb", closefd=False) as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            temporary.chmod(0o666 & ~_UMASK)
            permit()
            temporary.replace(path)


@contextlib.contextmanager
def temporary_file(folder: Path, name: str) -> Iterator[tuple[Path, int]]:
    """Make a file that is locked as long as it is open, and gone afterwards unless it was renamed.

    Those of the same name that dead processes left are removed.
    """
    while True:
        descriptor, text = tempfile.mkstemp(dir=folder, prefix=f".{name}.{_machine()}-", suffix=".tmp")
        with contextlib.suppress(OSError):  # some file systems know no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)  # it was taken for a dead one before it was locked
    try:
        sweep(folder, f".{glob.escape(name)}.*.tmp")
        yield Path(text), descriptor
    finally:
        Path(text).unlink(missing_ok=True)
        os.close(descriptor)


def sweep(folder: Path, pattern: str = ".*.*.tmp", *, held: bool = False) -> int:
    """Remove the temporary files in a folder that no live process writes; return their size in bytes.

    Parameters
    ----------
    held
        Whether this process alone may write there.
    """
    return sum(_removed(path, held) for path in paths_in(folder, pattern))


def is_temporary(name: str) -> bool:
    """Return whether a file has such a name as :func:`temporary_file` gives."""
    return name.startswith(".") and name.endswith(".tmp")


def _removed(path: Path, held: bool) -> int:
    """Remove a temporary file unless a live process may be writing it; return the bytes that this frees."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return 0
    try:
        status = os.fstat(descriptor)
        # The lock of another machine may not be seen here, and some file systems know none.
        old = time.time() - status.st_mtime > _OLD_SECONDS
        if old or ((held or f".{_machine()}-" in path.name) and _is_free(descriptor)):
            path.unlink()
            return status.st_size
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return 0


def _is_free(descriptor: int) -> bool:
    """Return whether no live process of this machine has locked a file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@functools.cache
def _machine() -> str:
    """Return what tells this start of this machine from others in a file's name."""
    return boot_id()[:8] or "0"


def write_json(path: Path, value: Any, *, permit: Callable[[], None] = lambda: None) -> None:
    """Write a value as readable JSON, atomically; NaN raises ValueError."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n", permit=permit)


def paths_in(folder: Path, pattern: str) -> list[Path]:
    """Return the paths in a folder that match a pattern, in order; folders that vanish meanwhile have none."""
    if not folder.exists():
        return []
    return sorted(folder / name for name in glob.glob(pattern, root_dir=folder, include_hidden=True))  # noqa: PTH207


def free_space(folder: Path) -> int:
    """Bytes that are free where a folder is or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
