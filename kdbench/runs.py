"""Run folders: states and records."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.cell import Cell
from kdbench.errors import UserError

RECORD, FAILURE, STATE, CONFIG = "record.json", "failed.json", "state", "config.toml"
METRICS = "metrics.jsonl"
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
