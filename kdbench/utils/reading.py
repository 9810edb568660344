"""Read JSON and TOML that others may have written or damaged: a value, or one line that says why there is none."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from kdbench.utils.text import one_line

MAX_BYTES = 2**28
"""Size of the largest text that is read, far above that of any that kdbench writes."""
_MAX_DEPTH = 100
"""Levels of nesting that are read; other code walks values by recursion."""


class Unreadable(ValueError):
    """A file or text cannot be used; the message is a predicate, such as ``is not TOML: ...``, for behind a name."""


class Missing(Unreadable):
    """There is no such file."""


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises
    ------
    Missing
        There is no such file.
    Unreadable
        It is no regular file, may not be read, or :func:`parse_json` refuses it.
    """
    value = parse_json(read_text(path))
    if not isinstance(value, dict):
        raise Unreadable("is not a JSON object")
    return value


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the content of a TOML file; it raises as :func:`read_json` does."""
    return parse_toml(read_text(path))


def read_object(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if the file is missing or unreadable."""
    try:
        return read_json(path)
    except Unreadable:
        return {}


def read_text(path: str | Path) -> str:
    """Return the text of a regular file in UTF-8, without a byte-order mark."""
    try:
        return read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_last_line(path: str | Path) -> str:
    """Return the last line of a regular file, as far as it lies in the last 64 kB, without reading the rest."""
    with opened(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2**16))
        lines = file.read().splitlines() or [b""]
    return lines[-1].decode(errors="replace")


def read_bytes(path: str | Path, most: int = sys.maxsize) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes; pipes, devices and folders are refused."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise Unreadable(f"is too large: it has {size:,} bytes, and at most {most:,} are read")
        return file.read()


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; pipes, devices and folders are refused, as is what the system refuses."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes to would be waited for
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):  # noqa: PTH114
            raise Unreadable("is a link to a file that does not exist") from None
        raise Missing("does not exist") from None
    except (OSError, ValueError) as error:
        raise Unreadable(f"cannot be read: {_reason(error)}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise Unreadable("is a folder, not a file" if stat.S_ISDIR(mode) else "is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    except OSError as error:
        raise Unreadable(f"cannot be read: {_reason(error)}") from None
    finally:
        os.close(descriptor)


def parse_json(text: str) -> Any:
    """Return the value that a JSON text stands for.

    Raises
    ------
    Unreadable
        It is not JSON, nests too deep, gives a key twice, or holds a number that is not finite or characters that
        cannot be written.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
        if text.count("[") + text.count("{") > _MAX_DEPTH:
            _check_depth(value)
        if "\\ud" in text or "\\uD" in text:  # half a surrogate pair, perhaps
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is not readable as JSON ({_reason(error)})") from None
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Return the content of a TOML text; numbers may be infinite, or none: who takes them names their keys.

    Raises
    ------
    Unreadable
        It is not TOML, or nests too deep.
    """
    try:
        value = tomllib.loads(text)
        _check_depth(value)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is not TOML: {_reason(error)}") from None
    return value


def parse_word(text: str) -> Any:
    """Return a value in TOML's notation; what is no single value stands for itself."""
    try:
        values = parse_toml(f"value = {text}")
    except Unreadable:
        return text
    return values["value"] if len(values) == 1 else text


def _reason(error: Exception) -> str:
    """Return why something failed, as one short line."""
    if isinstance(error, RecursionError):
        return "it nests too deep"
    return (isinstance(error, OSError) and error.strerror) or one_line(error)


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(items)
    if len(table) < len(items):
        names = [name for name, _ in items]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r:.60} is given twice")
    return table


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a number")
    return value


def _check_depth(value: Any) -> None:
    """Raise ValueError for a value of too many levels, without recursion."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        children = [item.values() if isinstance(item, dict) else item for item in level]
        level = [child for items in children for child in items if isinstance(child, dict | list)]
        if not level:
            return
    raise ValueError("it nests too deep")
