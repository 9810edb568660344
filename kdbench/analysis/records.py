"""Read the records of finished cells, and the configurations of unfinished ones, below a folder of runs."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.analysis.publishing.folder import flaws, is_published
from kdbench.errors import UserError
from kdbench.experiment.folder import CONFIG, FAILURE, RECORD, parse_record
from kdbench.experiment.identity import METHOD_CODE, identity_hash, identity_text
from kdbench.experiment.pairs import teacher_name
from kdbench.experiment.record_checks import check_record
from kdbench.experiment.test_sets import TEST_SETS
from kdbench.search.files import STUDY
from kdbench.search.written import WrittenStudy, read_study
from kdbench.teachers.doubts import is_unchecked
from kdbench.utils.reading import Missing, Unreadable, read_object, read_toml

CELL_FOLDER = re.compile(r"seed\d+-[0-9a-f]{8}")
"""Name of a cell's folder."""
NO_VERSION = -1
"""In place of the VERSION of a network that is not the user's."""


@dataclass(frozen=True, slots=True)
class UnfinishedCell:
    """A cell that was started and has no record."""

    folder: Path
    """The cell's folder."""
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
    """Cells that were started and have no record."""
    problems: list[str]
    """Files that could not be read as records, each with the reason."""
    studies: tuple[WrittenStudy, ...] = ()
    """The searches whose files are there."""


def read_records(runs: str | Path) -> Records:
    """Read all records below a folder; ``problems`` lists the files that are not records.

    Of a published folder, they are also what differs from the hashes in its list.

    Raises
    ------
    UserError
        The folder does not exist, or two records are of one cell.
    """
    runs = Path(runs)
    if not runs.is_dir():
        raise UserError(f"the folder {runs} does not exist: 'kdbench demo' and 'kdbench train' create one")
    rows: list[dict[str, Any]] = []
    unfinished: list[UnfinishedCell] = []
    studies: list[WrittenStudy] = []
    problems = list(flaws(runs)) if is_published(runs) else list[str]()
    for folder, names in folders_below(runs, problems):
        if RECORD in names:
            path = os.path.join(folder, RECORD)  # noqa: PTH118
            try:
                rows.append(_row(parse_record(path), folder))
            except Missing:
                continue  # deleted meanwhile
            except Unreadable as error:
                problems.append(f"{path} is left out: it {error}")
        elif STUDY in names:
            try:
                studies.append(read_study(Path(folder) / STUDY))
            except Missing:
                continue
            except Unreadable as error:
                problems.append(f"the search in {folder} is left out: it {error}")
        elif CONFIG in names:
            try:
                unfinished.append(read_unfinished(Path(folder), failed=FAILURE in names))
            except Missing:
                continue
            except Unreadable as error:
                if CELL_FOLDER.fullmatch(os.path.basename(folder)):  # noqa: PTH119
                    problems.append(f"{os.path.join(folder, CONFIG)} is left out: it {error}")  # noqa: PTH118
    frame = _frame(rows)
    _check_unique(frame)
    return Records(frame, unfinished, problems, tuple(studies))


def as_frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Convert records to a frame with one row per cell and the columns that tables need.

    Protocol, method, student, teacher and seed are read from ``config``, the part of a record whose hash is the cell's
    id. ``rules``, ``settings`` and ``chosen`` are JSON texts, so that rows can be grouped by them. ``code``,
    ``student_code`` and ``teacher_code`` are hashes of a user's code, empty for that of kdbench. ``data_name`` is what
    the user called data that the rules know by their hash, empty for others and where the record does not say.
    Accuracies and macro F1 are in percent; ``balanced_accuracy`` and ``macro_f1`` are nan for records without them.
    ``held_out_top1`` is that on held-out training images after the last epoch, nan without any. ``test_images`` and
    ``largest_class`` count the images of the test set and of its largest class, 0 where they are not known.
    ``teacher_side`` is the side of a teacher's images in pixels, 0 where it is the student's.

    Raises
    ------
    ValueError
        An item is not a record.
    """
    rows = []
    for record in records:
        check_record(record)
        rows.append(_row(record, ""))
    return _frame(rows)


def folders_below(top: Path, problems: list[str]) -> Iterator[tuple[str, set[str]]]:
    """Yield the folders below ``top``, in the order of their names, each with the names of its files.

    Links are followed after all folders proper. A folder is yielded once, and one that holds ``top`` never. One that
    cannot be read is added to ``problems``.
    """
    yielded = {_inode(parent) for parent in top.resolve().parents}
    stack, links = [str(top)], list[str]()
    while stack or links:
        if not stack:
            stack, links = sorted(links, reverse=True), []
        folder = stack.pop()
        files, subfolders = set(), []
        try:
            if (inode := _inode(folder)) in yielded:
                continue
            yielded.add(inode)
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name in (RECORD, CONFIG, STUDY):
                        files.add(entry.name)  # a folder of this name is damage, which its reader names
                    elif entry.is_dir(follow_symlinks=False):
                        subfolders.append(entry.path)
                    elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112
                        links.append(entry.path)
                    else:
                        files.add(entry.name)
        except FileNotFoundError:
            continue  # deleted meanwhile
        except OSError as error:
            problems.append(f"folder {folder} is left out: it cannot be read: {error.strerror}")
            continue
        yield folder, files
        stack += sorted(subfolders, reverse=True)


def _inode(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _row(record: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return the columns that tables need of a record that was checked."""
    config, teacher, cost = record["config"], record["teacher"], record["cost"]
    rules, method = config["protocol"], config["method"]
    settings = {key: value for key, value in method.items() if key not in {"name", "version"}}
    test_set = record.get("test_set")
    # Records once held no such numbers.
    sizes = (test_set["images"], test_set["largest_class"]) if test_set else TEST_SETS.get(rules["dataset"], (0, 0))
    members = teacher.get("members", [teacher]) if teacher else []
    environment, best, validation = record["environment"], record["best_on_test"], record.get("validation")
    return {
        "folder": folder,
        "cell": record["cell"],
        "rules": _shared(rules | {"data": record["data_fingerprint"], "epoch_rule": record["epoch_rule"]}),
        "data_name": sys.intern(record.get("data_name", "").partition(":")[2] if ":" in rules["dataset"] else ""),
        "protocol": sys.intern(rules["name"]),
        "overrides": _shared(record["overrides"]),
        "epochs": rules["epochs"],
        "teacher": sys.intern(teacher_name(teacher)) if teacher else "",
        "teacher_id": sys.intern(teacher["id"]) if teacher else "",
        "teacher_weights": sys.intern(teacher["weights"]) if teacher else "",
        "teacher_accuracy": _number(teacher, "accuracy"),
        "teacher_validation": (teacher or {}).get("validation", 0.0),
        "teacher_unchecked": bool(teacher) and is_unchecked(teacher),
        "teacher_side": (teacher or {}).get("image_size") or 0,
        "student": sys.intern(config["student"]),
        "student_version": config.get("student_version", NO_VERSION),
        "student_code": _code(record.get("student_source", "")),
        "teacher_code": sys.intern(", ".join(filter(None, (_code(each.get("source", "")) for each in members)))),
        "method": sys.intern(method["name"]),
        "method_version": method["version"],
        "code": sys.intern("".join(_code(record.get(name, "")) for name in METHOD_CODE)),
        "family": sys.intern(record.get("family", "")),
        "settings": _shared(settings),
        "chosen": _shared(record["settings_chosen"]),
        "source": sys.intern(record["settings_source"]),
        "seed": config["seed"],
        "top1": float(record["top1"]),
        "best_top1": float(best["top1"]),
        "best_epoch": best["epoch"],
        "validation_top1": float(validation["best"]["test_top1"]) if validation else math.nan,
        "held_out_top1": float(validation["top1"]) if validation else math.nan,
        "balanced_accuracy": float(record.get("balanced_accuracy", math.nan)),
        "macro_f1": float(record.get("macro_f1", math.nan)),
        "nll": float(record["nll"]),
        "ece": float(record["ece"]),
        "agreement": _number(record, "agreement"),
        "teacher_kl": _number(record, "teacher_kl"),
        "test_images": sizes[0],
        "largest_class": sizes[1],
        "views": cost["views_per_image"],
        "train_seconds": float(cost["train_seconds"]),
        "teacher_forwards": cost["teacher_forwards"],
        "computed_logits": "teacher_logits" in cost,
        "student_views": cost["student_views"],
        "pretraining_epochs": cost.get("pretraining_epochs", 0),
        "extra_parameters": cost["extra_parameters"],
        "devices": _num_devices(cost.get("devices")),
        "device": sys.intern(environment["device"]),
        "on_gpu": environment.get("device_type") != "cpu",
        "commit": sys.intern(_commit(environment)),
        "torch": sys.intern(environment["versions"]["torch"]),
        "weights": str(record.get("weights", "")),
    }


def _code(source: object) -> str:
    """Return the hash in where code comes from; empty for that of kdbench."""
    return sys.intern(str(source).partition("sha256:")[2])


def _number(values: dict[str, Any] | None, key: str) -> float:
    """Return a number that only cells with a teacher have, and of it one without known test logits may lack."""
    value = (values or {}).get(key)
    return math.nan if value is None else float(value)


def _num_devices(numbers: Any) -> int:
    """Return how many devices computed a cell, the most if it was resumed on another number of them."""
    is_list = isinstance(numbers, list) and all(isinstance(number, int) and number > 0 for number in numbers)
    return max(numbers) if is_list and numbers else 1


def _commit(environment: dict[str, Any]) -> str:
    """Return the first letters of the commit, with a plus if the working tree had changes."""
    return f"{(environment.get('commit') or 'unknown')[:8]}{'+' if environment.get('dirty') else ''}"


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


def read_unfinished(folder: Path, *, failed: bool) -> UnfinishedCell:
    """Return the cell of a folder without a record; Unreadable if it does not describe one."""
    config = read_toml(folder / CONFIG)
    identity = {key: config.get(key) for key in ("protocol", "teacher", "student", "method", "seed")}
    identity |= {key: config[key] for key in ("student_version",) if key in config}
    try:
        matches = identity_hash(identity_text(identity)) == config.get("id")
    except TypeError:  # TOML knows dates
        matches = False
    if not matches:
        raise Unreadable("does not match its cell id")
    if not isinstance(config.get("chosen", {}), dict):
        raise Unreadable("does not hold the settings that were chosen")
    failure = str(read_object(folder / FAILURE).get("reason", "error")) if failed else ""
    return UnfinishedCell(folder, config, failure)
