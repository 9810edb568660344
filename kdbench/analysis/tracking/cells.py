"""Read what a tracker shows of a cell: its name, settings and rows of metrics, as far as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdbench.analysis.records import UnfinishedCell, read_unfinished
from kdbench.experiment.folder import CONFIG, FAILURE, METRICS, PRETRAINING, RECORD, parse_record
from kdbench.experiment.identity import identity_hash, identity_text
from kdbench.utils.names import safe_name
from kdbench.utils.reading import MAX_BYTES, Missing, Unreadable, parse_json, read_bytes
from kdbench.utils.values import number, whole_number

State = Literal["running", "finished", "failed"]
Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Row:
    """The numbers of one epoch."""

    step: int
    """The epoch, from 1; that of the pre-training for names that begin with ``pretraining/``."""
    values: dict[str, float]

    @property
    def digest(self) -> str:
        """First letters of the hash of step and values."""
        return identity_hash(identity_text([self.step, self.values]))[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedCell:
    """A cell as trackers show it."""

    id: str
    name: str
    """``PROTOCOL/TEACHER-STUDENT/METHOD/seedS-HASH``, whatever folder it is in."""
    settings: dict[str, Value]
    """Everything that identifies the cell, with dotted names."""
    tags: dict[str, str]
    """Protocol, data set, teacher, student, method and changed settings."""
    rows: list[Row]
    """Pre-training, then the protocol's epochs, then for a finished cell the numbers of its record."""
    state: State
    problems: list[str]
    """Lines of metrics that cannot be read."""


def read_tracked(folder: Path, names: set[str]) -> TrackedCell | None:
    """Read the cell of a folder that has these files; None where it is no cell's.

    Raises
    ------
    Unreadable
        Its record or configuration is damaged.
    """
    if RECORD in names:
        record = parse_record(folder / RECORD)
        return _tracked(folder, record["cell"], record["config"], record["settings_chosen"], record)
    if CONFIG not in names:
        return None
    cell = read_unfinished(folder, failed=FAILURE in names)
    try:
        return _tracked(folder, cell.config["id"], cell.config, cell.config.get("chosen", {}), cell)
    except (KeyError, TypeError, AttributeError):
        raise Unreadable("does not describe a cell") from None


def _tracked(
    folder: Path,
    cell: str,
    config: Mapping[str, Any],
    chosen: Mapping[str, Any],
    source: Mapping[str, Any] | UnfinishedCell,
) -> TrackedCell:
    rules, method, student = config["protocol"], config["method"], config["student"]
    teacher = config["teacher"].get("network", "")
    problems: list[str] = []
    rows = [Row(step, _prefixed("pretraining", row)) for step, row in _lines(folder / PRETRAINING, problems)]
    rows += [Row(step, row) for step, row in _lines(folder / METRICS, problems)]
    state: State = "finished"
    if isinstance(source, UnfinishedCell):
        state = "failed" if source.failure else "running"
    else:
        rows.append(Row(source["epochs"], _prefixed("record", _numbers(_final(source)))))
    pair = f"{safe_name(teacher or 'none')}-{safe_name(student.partition('@')[0])}"
    place = f"{safe_name(rules['name'])}/{pair}/{safe_name(method['name'])}"
    names = {"protocol": rules["name"], "dataset": rules["dataset"], "teacher": teacher or "none", "student": student}
    names |= {"method": method["name"], "chosen": " ".join(f"{key}={value}" for key, value in chosen.items())}
    own = {key: value for key, value in method.items() if key != "name"}
    settings = {"cell": cell, "seed": config["seed"], **names, "teacher_id": config["teacher"].get("id", "")}
    return TrackedCell(
        id=cell,
        name=f"{place}/seed{config['seed']}-{cell[:8]}",
        settings=dict(_flat(settings | {"settings": own, "rules": rules})),
        tags={key: value for key, value in names.items() if value},
        rows=rows,
        state=state,
        problems=problems,
    )


def _lines(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield epoch and numbers of each whole line; what follows the last newline is still being written."""
    try:
        lines = read_bytes(path, MAX_BYTES).split(b"\n")[:-1]
    except Missing:
        return
    except Unreadable as error:
        problems.append(f"{path} {error}")
        return
    rows: dict[int, dict[str, float]] = {}
    for count, line in enumerate(lines, 1):
        try:
            row = parse_json(line.decode())
            epoch = whole_number(row.pop("epoch"), 1)
        except (ValueError, TypeError, AttributeError, KeyError):
            problems.append(f"{path}: line {count} is damaged and left out")
        else:
            rows[epoch] = _numbers(row)  # of an epoch that is there twice, the later line counts
    yield from sorted(rows.items())


def _final(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says beyond the last row of metrics."""
    values = {"best_top1": record["best_on_test"]["top1"], "best_epoch": record["best_on_test"]["epoch"]}
    return {"top1": record["top1"], **values, **record["cost"]}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are finite numbers."""
    numbers = {}
    for name, value in values.items():
        try:
            numbers[name] = float(number(value))
        except ValueError:
            continue
    return numbers


def _prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Value]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, Value) else json.dumps(value)
