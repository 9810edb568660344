"""Finished cells to publish, and what a folder has after a command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from fake_records import fake_record
from tracked_runs import RULES, begin_cell, finish_cell

from kdbench import cli
from kdbench.experiment.record_checks import sealed


def finished(runs: Path, method: str, seed: int = 1, **changes: Any) -> Path:
    """A finished cell with other fields than a fake record has."""
    folder, record = begin_cell(runs, method, seed)
    finish_cell(folder, sealed(record | changes))
    return folder


def environment(**changes: Any) -> dict[str, Any]:
    return fake_record("kd", 1, 50.0, protocol=RULES)["environment"] | changes


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and times of all files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def typed(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["kdbench", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)
