"""Whether the files of a cell agree with each other and with its teacher, and weights with their hash."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kdbench.analysis.records import read_unfinished
from kdbench.errors import UserError
from kdbench.experiment.folder import CONFIG, METRICS, PREDICTIONS, WEIGHTS
from kdbench.experiment.predictions import read_predictions
from kdbench.experiment.record_checks import check_last_epoch, is_sealed
from kdbench.experiment.registry import method_sources
from kdbench.models import own_network
from kdbench.models.weights import read_weights, weights_hash
from kdbench.teachers.cards import TeacherCard
from kdbench.utils.reading import Missing, Unreadable, parse_json, read_text
from kdbench.utils.text import counted, one_line
from kdbench.verify.findings import Check, Finding, Verdict
from kdbench.verify.stored import StoredCell, StoredTeacher

_ROUNDING = 1e-9
"""Difference of two percentages of the same counts."""
Result = tuple[Verdict, str]


class _Differs(Exception):
    """Something is not as the record says; the message says what and how."""


def file_findings(cell: StoredCell, cards: Mapping[str, TeacherCard], records: Mapping[str, Any]) -> Iterator[Finding]:
    """Check all that can be told from a cell's files without its data.

    Parameters
    ----------
    cards
        Of the teachers that are here, by id.
    records
        Of all cells that are here, by id.
    """
    folder, record = cell.folder, cell.record
    functions: dict[Check, Callable[[], Result | None]] = {
        "record": lambda: _record(folder, record),
        "configuration": lambda: _configuration(folder, record),
        "metrics": lambda: _metrics(folder, record),
        "predictions": lambda: _predictions(folder, record),
        "code": lambda: _code(record),
        "teacher": lambda: _teacher(record, cards, records),
        "weights": lambda: _weights(cell),
    }
    for check, function in functions.items():
        try:
            result = function()
        except _Differs as error:
            result = "differs", str(error)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            result = "differs", f"the record or a file beside it is damaged: {one_line(error)}"
        if result:
            yield Finding(str(folder), check, *result)


def teacher_findings(teacher: StoredTeacher) -> Iterator[Finding]:
    """Check a teacher's weights, or its logits where it is a file of them."""
    try:
        result = _hashed(teacher.folder / WEIGHTS, teacher.card.weights)
    except _Differs as error:
        result = "differs", str(error)
    yield Finding(str(teacher.folder), "weights", *result)


def _weights(cell: StoredCell) -> Result:
    expected = cell.record["weights"]
    if cell.weights is None:
        return "not checked", (
            f"no {WEIGHTS} here: put the one with the hash in the record beside it, or name a folder of runs that has "
            "it with --weights"
        )
    try:
        return _hashed(cell.weights, expected)
    except _Differs as error:
        if cell.weights.parent == cell.folder:
            raise
        return "not checked", f"{error}: it is of another result of this cell"


def _hashed(path: Path, expected: str) -> Result:
    """Compare saved weights with their hash."""
    try:
        digest = weights_hash(read_weights(path))
    except UserError as error:
        raise _Differs(str(error)) from None
    if digest != expected:
        raise _Differs(f"{path} has the hash {digest[:16]}, not {expected[:16]}")
    return "same", f"hash {digest[:16]}"


def _record(folder: Path, record: Mapping[str, Any]) -> Result:
    name = f"seed{record['config']['seed']}-{record['cell'][:8]}"
    if folder.resolve().name != name:
        raise _Differs(f"the folder of cell {record['cell'][:8]} is called {name}, not {folder.resolve().name}")
    if not is_sealed(record):
        return "not checked", "kdbench 0.1 wrote records without a hash of their own: the cell's id agrees"
    return "same", f"record {record['record_hash'][:16]}"


def _configuration(folder: Path, record: Mapping[str, Any]) -> Result:
    try:
        config = read_unfinished(folder, failed=False).config
    except Missing:
        return "not checked", f"{CONFIG} is missing"
    except Unreadable as error:
        raise _Differs(f"{CONFIG} {error}") from None
    if config["id"] != record["cell"]:
        raise _Differs(f"{CONFIG} is that of cell {str(config['id'])[:8]}")
    return "same", ""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of metrics.

    Raises
    ------
    Missing
        There is no such file.
    Unreadable
        It is damaged.
    """
    rows = [parse_json(line) for line in read_text(path).splitlines()]
    if not all(isinstance(row, dict) for row in rows):
        raise Unreadable("is damaged: a line is not a JSON object")
    return rows


def _metrics(folder: Path, record: Mapping[str, Any]) -> Result:
    try:
        rows = read_rows(folder / METRICS)
    except Missing:
        return "not checked", f"{METRICS} is missing"
    except Unreadable as error:
        raise _Differs(f"{METRICS} {error}") from None
    if [row.get("epoch") for row in rows] != list(range(1, record["epochs"] + 1)):
        raise _Differs(f"{METRICS} does not have one line for each of {counted(record['epochs'], 'epoch')}")
    try:
        check_last_epoch(record, rows[-1])
    except ValueError as error:
        raise _Differs(f"{METRICS}: the record {error}") from None
    bests = {"top1": record["best_on_test"]}
    if "validation" in record:
        bests["validation/top1"] = record["validation"]["best"]
    for name, best in bests.items():
        values = [row.get(name) for row in rows]
        if best["top1"] not in values or any(value is None or value > best["top1"] for value in values):
            raise _Differs(f"the best {name} in {METRICS} is not {best['top1']}, as the record says")
        if values[best["epoch"] - 1] != best["top1"]:
            raise _Differs(f"epoch {best['epoch']} in {METRICS} is not the best by {name}, as the record says")
    return "same", ""


def _predictions(folder: Path, record: Mapping[str, Any]) -> Result | None:
    if "predictions" not in record:
        return None
    try:
        predictions = read_predictions(folder)
    except UserError as error:
        raise _Differs(str(error)) from None
    if predictions is None:
        return "not checked", f"{PREDICTIONS} is not here"
    confusion = predictions.confusion()
    top1 = 100 * float(confusion.diagonal().sum()) / float(confusion.sum())
    if abs(top1 - record["top1"]) > _ROUNDING:
        raise _Differs(f"{PREDICTIONS} gives {top1:.4f} %, and the record has {record['top1']:.4f} %")
    counts = {"correct": confusion.diagonal().tolist(), "images": confusion.sum(1).tolist()}
    if record.get("per_class", counts) != counts:
        raise _Differs(f"{PREDICTIONS} gives other counts of classes than the record")
    return "same", f"hash {record['predictions'][:16]}"


def _code(record: Mapping[str, Any]) -> Result | None:
    """Compare the code of a user's own; None where all is kdbench's."""
    own = [(name, text) for name, text in _code_texts(record) if "sha256:" in text]
    for (kind, name), text in own:
        source = method_sources().get(name) if kind == "method" else own_network(name)
        if source is None:
            return "not checked", f"{kind} {name} is not one of kdbench: name the folder that has it with --own"
        if source.changed_since(text):
            raise _Differs(f"{source.where} is not the code that the cell was run with ({text})")
    return ("same", ", ".join(f"{kind} {name}" for (kind, name), _ in own)) if own else None


def _code_texts(record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield methods and networks of a record, each with what it says of their code."""
    config = record["config"]
    yield ("method", config["method"]["name"]), str(record.get("method_source", ""))
    if "base_source" in record:
        yield ("method", config["method"]["base"]), str(record["base_source"])
    yield ("network", config["student"].partition("@")[0]), str(record.get("student_source", ""))
    for member in _members(record):
        yield ("network", member["network"]), str(member.get("source", ""))


def _members(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a record says of each of its teachers."""
    teacher = record["teacher"] or {}
    members: list[dict[str, Any]] = teacher.get("members", [teacher] if teacher else [])
    return members


def _teacher(record: Mapping[str, Any], cards: Mapping[str, TeacherCard], records: Mapping[str, Any]) -> Result | None:
    if not record["teacher"]:
        return None
    missing = []
    for member in _members(record):
        name = f"{member['network']}@{str(member['id']).partition(':')[2][:8]}"
        card, trained = cards.get(member["id"]), records.get(str(member["id"]).removeprefix("cell:"))
        known = [(card.weights, card.accuracy)] if card else []
        known += [(trained["weights"], trained["top1"])] if trained else []
        if not known:
            missing.append(name)
        for weights, accuracy in known:
            if weights != member["weights"]:
                raise _Differs(f"its teacher {name} had the weights {member['weights'][:16]}, here {weights[:16]}")
            if accuracy != member["accuracy"]:
                raise _Differs(f"its teacher {name} has {accuracy} % here, and the record says {member['accuracy']} %")
    if missing:
        return "not checked", f"no teacher {', '.join(missing)} here: name a folder of runs that has it with --weights"
    return "same", record["teacher"]["weights"][:16]
