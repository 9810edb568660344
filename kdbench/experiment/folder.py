"""The files of a cell's folder, and the record of a finished cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.experiment.cell import Cell

RECORD, FAILURE, STATE, CONFIG = "record.json", "failed.json", "state", "config.toml"
METRICS, PRETRAINING = "metrics.jsonl", "pretraining.jsonl"
WEIGHTS = "model.safetensors"


def read_record(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """Return the record of a finished cell, or None.

    Raises
    ------
    UserError
        The record is damaged or belongs to another cell.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    record = parse_record(path)
    if isinstance(record, str):
        raise UserError(f"{path} is damaged ({record}): delete it, then type the same command to run the cell again")
    if record.get("cell") != cell.id:
        raise UserError(f"{path} belongs to cell {str(record.get('cell'))[:8]}, not {cell.id[:8]}: move it away")
    return record


def parse_record(path: str | Path) -> dict[str, Any] | str:
    """Return the record in a file, or why it is not a record."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            record = json.loads(file.read())
    except (ValueError, OSError, RecursionError) as error:
        return f"not readable as JSON ({error})"
    return record if isinstance(record, dict) and "cell" in record else "not a kdbench record"
