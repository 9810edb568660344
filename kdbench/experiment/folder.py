"""The files of a cell's folder, and the record of a finished cell."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.errors import UserError
from kdbench.experiment.record_checks import check_last_epoch, check_record, is_sealed
from kdbench.utils.reading import Missing, Unreadable, parse_json, read_json, read_last_line

if TYPE_CHECKING:
    from kdbench.experiment.cell import Cell

RECORD, FAILURE, STATE, CONFIG = "record.json", "failed.json", "state", "config.toml"
METRICS, PRETRAINING = "metrics.jsonl", "pretraining.jsonl"
WEIGHTS, PREDICTIONS = "model.safetensors", "predictions.npz"


def read_record(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """Return the record of a finished cell, or None.

    Raises
    ------
    UserError
        The record is damaged or belongs to another cell.
    """
    path = folder / RECORD
    try:
        record = parse_record(path)
    except Missing:
        return None
    except Unreadable as error:
        raise UserError(f"{path} {error}: delete it, then type the same command to run the cell again") from None
    if record.get("cell") != cell.id:
        raise UserError(f"{path} belongs to cell {str(record.get('cell'))[:8]}, not {cell.id[:8]}: move it away")
    return record


def parse_record(path: str | Path) -> dict[str, Any]:
    """Return the record in a file.

    Raises
    ------
    Missing
        There is no such file.
    Unreadable
        It is damaged or no record.
    """
    record = read_json(path)
    try:
        check_record(record)
        if not is_sealed(record):
            metrics = os.path.join(os.path.dirname(path), METRICS)  # noqa: PTH118, PTH120 - called very often
            check_last_epoch(record, _last_row(metrics))
    except ValueError as error:
        raise Unreadable(str(error)) from None
    return record


def record_flaw(path: Path, cell_id: str) -> str | None:
    """Return why a file is not a cell's record, or None if it is; one that has not changed is read only once."""
    try:
        status = path.stat()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    owner, flaw = _examined(path, status.st_ino, status.st_mtime_ns, status.st_size)
    return flaw or (None if owner == cell_id else "belongs to another cell")


@functools.lru_cache(maxsize=2**17)
def _examined(path: Path, *_version: int) -> tuple[str, str | None]:
    """Return the cell of a record, and why it is none."""
    try:
        return parse_record(path)["cell"], None
    except Unreadable as error:
        return "", str(error)


def _last_row(metrics: str) -> dict[str, Any]:
    """Return the last row of a file of metrics; empty if there is none that can be read."""
    try:
        row = parse_json(read_last_line(metrics))
    except Unreadable:
        return {}
    return row if isinstance(row, dict) else {}
