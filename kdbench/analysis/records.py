"""Read the records of finished cells, and the configurations of unfinished ones, below a folder of runs."""

from __future__ import annotations

import math
import os
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.errors import UserError
from kdbench.experiment.folder import CONFIG, FAILURE, RECORD, parse_record
from kdbench.experiment.identity import identity_hash, identity_text
from kdbench.utils.files import read_object


@dataclass(frozen=True, slots=True)
class UnfinishedCell:
    """A cell that was started and has no record."""

    folder: Path
    config: dict[str, Any]
    """The cell's configuration, with its changed settings as ``chosen``."""
    failure: str
    """Why the cell failed; empty if it did not."""


@dataclass(frozen=True, slots=True)
class Records:
    """The finished and unfinished cells below a folder."""

    frame: pd.DataFrame
    """One row per record, see :func:`as_frame`."""
    unfinished: list[UnfinishedCell]
    problems: list[str]
    """Files that could not be read as records, each with the reason."""


def read_records(runs: Path) -> Records:
    """Read all records below a folder; ``problems`` lists the files that are not records.

    Raises
    ------
    UserError
        The folder does not exist, or two records are of one cell.
    """
    if not runs.is_dir():
        raise UserError(f"the folder {runs} does not exist: 'kdbench demo' and 'kdbench train' create one")
    rows: list[dict[str, Any]] = []
    unfinished, problems = [], []
    for folder, names in _folders(runs):
        if RECORD in names:
            path = os.path.join(folder, RECORD)  # noqa: PTH118
            record = parse_record(path)
            row = record if isinstance(record, str) else _row(record, folder)
            if isinstance(row, str):
                problems.append(f"{path} is left out: {row}")
            else:
                rows.append(row)
        elif CONFIG in names:
            cell = _unfinished_cell(Path(folder))
            if cell:
                unfinished.append(cell)
    frame = _frame(rows)
    _check_unique(frame)
    return Records(frame, unfinished, problems)


def as_frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Convert records to a frame with one row per cell and the columns that tables need.

    Protocol, method, student, teacher and seed are read from ``config``, the part of a record whose hash is the cell's
    id. ``rules``, ``settings`` and ``chosen`` are JSON texts, so that rows can be grouped by them. ``code``
    is the hash of a user's method, empty for methods of kdbench. Accuracies are in percent.

    Raises
    ------
    ValueError
        An item is not a record.
    """
    rows = []
    for record in records:
        row = _row(record, "")
        if isinstance(row, str):
            raise ValueError(row)
        rows.append(row)
    return _frame(rows)


def _folders(top: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield the folders below ``top``, in the order of their names, each with the names of its files."""
    stack = [str(top)]
    while stack:
        folder = stack.pop()
        files, subfolders = set(), []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    subfolders.append(entry.path)
                else:
                    files.add(entry.name)
        yield folder, files
        stack += sorted(subfolders, reverse=True)


def _row(record: dict[str, Any], folder: str) -> dict[str, Any] | str:
    """Return the columns that tables need, or the reason why ``record`` is not a record."""
    try:
        config = record["config"]
        if identity_hash(identity_text(config)) != record["cell"]:
            return "its configuration does not match its cell id"
        rules, method, teacher = config["protocol"], config["method"], record["teacher"]
        settings = {key: value for key, value in method.items() if key not in {"name", "version"}}
        cost, environment, best = record["cost"], record["environment"], record["best_on_test"]
        if (teacher or {}).get("id") != config["teacher"].get("id"):
            return "its teacher does not match its configuration"
        fingerprint = record["data_fingerprint"]
        row = {
            "folder": folder,
            "cell": record["cell"],
            "rules": _shared(rules | {"data": fingerprint, "epoch_rule": record["epoch_rule"]}),
            "protocol": sys.intern(rules["name"]),
            "overrides": _shared(record["overrides"]),
            "epochs": int(rules["epochs"]),
            "teacher": sys.intern(teacher["network"]) if teacher else "",
            "teacher_id": sys.intern(teacher["id"]) if teacher else "",
            "teacher_weights": sys.intern(teacher["weights"]) if teacher else "",
            "teacher_accuracy": _number(teacher["accuracy"]) if teacher else math.nan,
            "student": sys.intern(config["student"]),
            "method": sys.intern(method["name"]),
            "method_version": int(method["version"]),
            "code": sys.intern(str(record.get("method_source", "")).partition("sha256:")[2]),
            "family": sys.intern(record.get("family", "")),
            "settings": _shared(settings),
            "chosen": _shared(record["settings_chosen"]),
            "source": sys.intern(record["settings_source"]),
            "seed": int(config["seed"]),
            "top1": _accuracy(record["top1"]),
            "best_top1": _accuracy(best["top1"]),
            "best_epoch": int(best["epoch"]),
            "nll": _number(record["nll"]),
            "ece": _number(record["ece"]),
            "agreement": _number(record["agreement"]) if teacher else math.nan,
            "teacher_kl": _number(record["teacher_kl"]) if teacher else math.nan,
            "views": int(cost["views_per_image"]),
            "train_seconds": _number(cost["train_seconds"]),
            "teacher_forwards": int(cost["teacher_forwards"]),
            "student_views": int(cost["student_views"]),
            "pretraining_epochs": int(cost.get("pretraining_epochs", 0)),
            "extra_parameters": int(cost["extra_parameters"]),
            "device": sys.intern(environment["device"]),
            "commit": sys.intern(_commit(environment)),
            "torch": sys.intern(environment["versions"]["torch"]),
        }
    except KeyError as error:
        return f"not a kdbench record: {error} is missing"
    except (TypeError, ValueError, AttributeError) as error:
        return f"not a kdbench record: {error}"
    return row


def _commit(environment: dict[str, Any]) -> str:
    """Return the first letters of the commit, with a plus if the working tree had changes."""
    return f"{(environment['commit'] or 'unknown')[:8]}{'+' if environment['dirty'] else ''}"


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _accuracy(value: Any) -> float:
    if not 0 <= _number(value) <= 100:
        raise ValueError(f"{value!r} is not an accuracy in percent")
    return float(value)


def _shared(value: Any) -> str:
    """Return a value as JSON; equal values give the same object."""
    return sys.intern(identity_text(value))


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    # Plain object columns: the texts of many rows are the same few objects.
    columns = {key: [row[key] for row in rows] for key in rows[0]} if rows else {}
    return pd.DataFrame(
        {
            key: pd.Series(values, dtype=object) if isinstance(values[0], str) else pd.Series(values)
            for key, values in columns.items()
        }
    )


def _check_unique(frame: pd.DataFrame) -> None:
    if frame.empty or frame["cell"].is_unique:
        return
    repeated = frame.loc[frame["cell"].duplicated(keep=False)]
    cell = repeated["cell"].iloc[0]
    folders = repeated.loc[repeated["cell"] == cell, "folder"]
    raise UserError(
        f"two records of one cell ({cell[:8]}): {folders.iloc[0]} and {folders.iloc[1]}; move one of them away"
    )


def _unfinished_cell(folder: Path) -> UnfinishedCell | None:
    """Return the cell of a folder without a record; None if the folder is not a cell's."""
    try:
        config = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not config.keys() >= {"protocol", "teacher", "student", "method", "seed", "id"}:
        return None
    failed = (folder / FAILURE).exists()
    failure = str(read_object(folder / FAILURE).get("reason", "error")) if failed else ""
    return UnfinishedCell(folder, config, failure)
