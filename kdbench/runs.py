"""Run folders: claims, states and records."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.cell import Cell
from kdbench.checkpoint import explain_os_errors, write_json
from kdbench.errors import UserError

RECORD, FAILURE, STATE, CLAIM, CONFIG = "record.json", "failed.json", "state", "claim", "config.toml"
_REQUIRED = {"cell", "protocol", "student", "method", "seed", "top1", "config"}


@dataclass(frozen=True, slots=True)
class Records:
    """The finished cells below a folder, and what was found beside them."""

    frame: pd.DataFrame
    """One row a record; nested values under dotted names."""
    unfinished: int
    """Cells that were begun and are not done."""
    problems: list[str]
    """Files that are no records, each with the reason."""


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a cell's folder, so that no second process of this machine runs the cell.

    Raises
    ------
    UserError
        Another process holds it.
    """
    path = folder / CLAIM
    with explain_os_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise UserError(f"{folder} is being run by process {owner}: wait for it, or stop it first") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def read_record(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The record of a finished cell, or None.

    Raises
    ------
    UserError
        The record is damaged or belongs to another cell.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    record = _parse(path)
    if isinstance(record, str):
        raise UserError(f"{path} is damaged ({record}): delete it, then type the same command to run the cell again")
    if record["cell"] != cell.id:
        raise UserError(f"{path} belongs to cell {str(record['cell'])[:8]}, not {cell.id[:8]}: move it away")
    return record


def write_failure(folder: Path, failure: dict[str, Any]) -> None:
    """Leave the reason why a cell failed."""
    write_json(folder / FAILURE, failure)


def read_records(runs: Path) -> Records:
    """Read all records below a folder.

    Raises
    ------
    UserError
        There is no such folder.
    """
    if not runs.is_dir():
        raise UserError(f"there is no folder {runs}: 'kdbench demo' or 'kdbench train' makes one")
    rows, problems = [], []
    for path in sorted(runs.glob(f"**/{RECORD}")):
        record = _parse(path)
        if isinstance(record, str):
            problems.append(f"{path} is left out: {record}")
        else:
            rows.append(record)
    begun = {p.parent for name in (STATE, FAILURE) for p in runs.glob(f"**/{name}")}
    unfinished = sum(not (folder / RECORD).exists() for folder in begun)
    return Records(as_frame(rows), unfinished, problems)


def as_frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Records as rows, nested values under dotted names."""
    return pd.json_normalize(records)


def _parse(path: Path) -> dict[str, Any] | str:
    """A record, or the reason why the file is none."""
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        return f"not readable as JSON ({error})"
    if not isinstance(record, dict) or not record.keys() >= _REQUIRED:
        return "not a record of kdbench"
    return record
