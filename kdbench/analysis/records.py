"""Run folders: the names of their files, and what finished and begun cells have left."""

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
class Begun:
    """A cell that was begun and has no record."""

    folder: Path
    config: dict[str, Any]
    """What the cell is, with the settings that were ``chosen``."""
    failure: str
    """Why it failed; empty where it did not."""


@dataclass(frozen=True, slots=True)
class Records:
    """The finished cells below a folder, and what was found beside them."""

    frame: pd.DataFrame
    """One row a record, see :func:`as_frame`."""
    begun: list[Begun]
    problems: list[str]
    """Files that are no records, each with the reason."""


def read_records(runs: Path) -> Records:
    """Read all records below a folder; what is none is named in ``problems``.

    Raises
    ------
    UserError
        There is no such folder, or there are two records of one cell.
    """
    if not runs.is_dir():
        raise UserError(f"there is no folder {runs}: 'kdbench demo' or 'kdbench train' makes one")
    rows: list[dict[str, Any]] = []
    begun, problems = [], []
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
            found = _begun(Path(folder))
            if found:
                begun.append(found)
    frame = _frame(rows)
    _refuse_duplicates(frame)
    return Records(frame, begun, problems)


def as_frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Records as rows, one a cell, with the columns that tables need.

    What decides results is taken from the part of a record that the cell's id is the hash of. ``rules``, ``settings``
    and ``chosen`` are JSON texts, so that rows can be grouped by them; accuracies are in percent.

    Raises
    ------
    ValueError
        One of them is not a record.
    """
    rows = []
    for record in records:
        row = _row(record, "")
        if isinstance(row, str):
            raise ValueError(row)
        rows.append(row)
    return _frame(rows)


def _folders(top: Path) -> Iterator[tuple[str, set[str]]]:
    """Folders below one, in the order of their names, each with the names of its files."""
    waiting = [str(top)]
    while waiting:
        folder = waiting.pop()
        files, below = set(), []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                else:
                    files.add(entry.name)
        yield folder, files
        waiting += sorted(below, reverse=True)


def _row(record: dict[str, Any], folder: str) -> dict[str, Any] | str:
    """What tables need of a record, or the reason why it is none."""
    try:
        config = record["config"]
        if identity_hash(identity_text(config)) != record["cell"]:
            return "its configuration is not that of its cell"
        rules, method, teacher = config["protocol"], config["method"], record["teacher"]
        settings = {key: value for key, value in method.items() if key not in {"name", "version"}}
        cost, made, best = record["cost"], record["environment"], record["best_on_test"]
        if (teacher or {}).get("id") != config["teacher"].get("id"):
            return "its teacher is not that of its cell"
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
            "device": sys.intern(made["device"]),
            "commit": sys.intern(f"{(made['commit'] or 'unknown')[:8]}{'+' if made['dirty'] else ''}"),
            "torch": sys.intern(made["versions"]["torch"]),
        }
    except KeyError as error:
        return f"not a record of kdbench: it has no {error}"
    except (TypeError, ValueError, AttributeError) as error:
        return f"not a record of kdbench: {error}"
    return row


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _accuracy(value: Any) -> float:
    if not 0 <= _number(value) <= 100:
        raise ValueError(f"{value!r} is not an accuracy in percent")
    return float(value)


def _shared(value: Any) -> str:
    """A value as JSON; equal ones are one object."""
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


def _refuse_duplicates(frame: pd.DataFrame) -> None:
    if frame.empty or frame["cell"].is_unique:
        return
    repeated = frame.loc[frame["cell"].duplicated(keep=False)]
    cell = repeated["cell"].iloc[0]
    folders = repeated.loc[repeated["cell"] == cell, "folder"]
    raise UserError(
        f"two records of one cell {cell[:8]}: {folders.iloc[0]} and {folders.iloc[1]}; move one of them away"
    )


def _begun(folder: Path) -> Begun | None:
    """A cell without a record; None where the folder is none of ours."""
    try:
        config = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not config.keys() >= {"protocol", "teacher", "student", "method", "seed", "id"}:
        return None
    failed = (folder / FAILURE).exists()
    return Begun(folder, config, str(read_object(folder / FAILURE).get("reason", "error")) if failed else "")
