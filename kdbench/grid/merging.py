"""Bring finished cells of another folder of runs, such as another machine's, into one's own, each checked and whole."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from kdbench.errors import UserError
from kdbench.experiment.folder import (
    CONFIG,
    FAILURE,
    METRICS,
    PREDICTIONS,
    PRETRAINING,
    RECORD,
    STATE,
    WEIGHTS,
    parse_record,
)
from kdbench.experiment.predictions import read_predictions
from kdbench.models.starts import START_FILES
from kdbench.models.weights import read_weights, weights_hash
from kdbench.search.files import FOLDER, STUDY
from kdbench.search.written import CHOICE, joined, study_of
from kdbench.teachers.cards import CARD, TEST_LOGITS, read_card
from kdbench.utils.checkpoint import state_names
from kdbench.utils.files import paths_in, write_atomic, write_json
from kdbench.utils.leases import Busy, Leases
from kdbench.utils.reading import Unreadable, read_bytes, read_json

_CELL = re.compile(r"seed\d+-([0-9a-f]{8})")


@final
@dataclass(slots=True)
class Merged:
    """What was brought, what was there already, and what was left out."""

    cells: int = 0
    teachers: int = 0
    searches: int = 0
    starts: int = 0
    """Files of weights that students start from."""
    there: int = 0
    """Cells, teachers and searches that were there already."""
    left_out: list[str] = field(default_factory=list)
    """A line for each that was not brought, with the reason."""


def merge(source: Path, runs: Path) -> Merged:
    """Bring the finished cells of ``source``, their teachers, searches and weights that they start from into ``runs``.

    Nothing that is there is changed, but for a search's file, to which further trials and pairs are added. Cells in
    progress, submissions and caches stay where they are.

    Raises
    ------
    UserError
        ``source`` does not exist, or a file cannot be written.
    """
    if not source.is_dir():
        raise UserError(
            f"the folder {source} does not exist: type the folder of runs that cells are to be brought from"
        )
    if runs.exists() and source.samefile(runs):
        raise UserError(f"{source} and {runs} are one folder: name the folder to bring cells into with --runs DIR")
    merged = Merged()
    for card in paths_in(source, f"*/teachers/*/{CARD}"):
        with _named(merged):
            merged.teachers += _bring_teacher(card.parent, runs / card.parent.relative_to(source), merged)
    for record in paths_in(source, f"*/*/*/seed*/{RECORD}"):
        with _named(merged):
            merged.cells += _bring_cell(record.parent, runs / record.parent.relative_to(source), merged)
    for study in paths_in(source, f"*/{FOLDER}/*/{STUDY}"):
        with _named(merged):
            merged.searches += _bring_search(study.parent, runs / study.parent.relative_to(source), merged)
    for start in paths_in(source, START_FILES):
        target = runs / start.relative_to(source)
        if not target.exists():
            with _named(merged):
                _write(_read([start.name], start.parent), target.parent)
                merged.starts += 1
    return merged


@contextlib.contextmanager
def _named(merged: Merged) -> Iterator[None]:
    """Note what cannot be brought, and go on."""
    try:
        yield
    except _LeftOut as error:
        merged.left_out.append(str(error))


class _LeftOut(Exception):
    """Something is not brought; the message says what and why."""


def _bring_cell(folder: Path, target: Path, merged: Merged) -> bool:
    """Copy a finished cell, its record last; return whether it was."""
    try:
        record = parse_record(folder / RECORD)
    except Unreadable as error:
        raise _LeftOut(f"{folder / RECORD} is left out: it {error}") from None
    match = _CELL.fullmatch(folder.name)
    if not match or not record["cell"].startswith(match[1]):
        raise _LeftOut(f"{folder / RECORD} is left out: it belongs to cell {record['cell'][:8]}")
    _check_weights(folder, record["weights"], missing_is_fine=True)
    _check_predictions(folder)
    if (target / RECORD).exists():
        _compare(record, target, folder)
        merged.there += 1
        return False
    files = CONFIG, METRICS, PRETRAINING, WEIGHTS, PREDICTIONS, RECORD
    names = [name for name in files if (folder / name).exists()]
    contents = _read(names, folder)
    with Leases() as leases:
        try:
            leases.hold(target)
        except Busy as error:
            raise _LeftOut(f"{folder} is left out: {error}") from None
        _write(contents, target)
        for leftover in (FAILURE, *state_names(STATE)):
            (target / leftover).unlink(missing_ok=True)
    return True


def _compare(record: dict[str, Any], target: Path, folder: Path) -> None:
    """Leave out a record whose cell has another result already."""
    try:
        other = parse_record(target / RECORD)
    except Unreadable as error:
        raise _LeftOut(f"{folder} is left out: {target / RECORD} {error}; delete that one to bring this one") from None
    if other["weights"] != record["weights"]:
        raise _LeftOut(
            f"{folder} is left out: {target} has another result of this cell ({other['top1']:.2f} %, here "
            f"{record['top1']:.2f} %), as another processor gives"
        )


def _bring_teacher(folder: Path, target: Path, merged: Merged) -> bool:
    """Copy a teacher, its card last; return whether it was."""
    try:
        card = read_card(folder / CARD)
    except UserError as error:
        raise _LeftOut(f"{folder} is left out: {error}") from None
    if (target / CARD).exists():
        merged.there += 1
        return False
    _check_weights(folder, card.weights, missing_is_fine=False)
    _check_predictions(folder)
    optional = [name for name in (TEST_LOGITS, PREDICTIONS) if (folder / name).exists()]
    names = [WEIGHTS, *optional, CARD]
    _write(_read(names, folder), target)
    return True


def _bring_search(folder: Path, target: Path, merged: Merged) -> bool:
    """Copy a search and its choices, and add to one that is there what it lacks; return whether anything was written.

    Choices among one number of trials belong together: they are brought only where none of them differs.
    """
    try:
        study = _read_search(folder)
    except Unreadable as error:
        raise _LeftOut(f"{folder} is left out: it {error}") from None
    try:
        other = _read_search(target) if (target / STUDY).exists() else {}
    except Unreadable as error:
        raise _LeftOut(f"{folder} is left out: {target} {error}") from None
    both = joined(other[STUDY], study[STUDY]) if other else study[STUDY]
    if both is None:
        raise _LeftOut(f"{folder} is left out: {target} is another search of this name")
    differing = {name for name in study.keys() & other.keys() if name != STUDY and study[name] != other[name]}
    numbers = {name.partition("-")[0] for name in differing}
    new = {STUDY: both} if both != other.get(STUDY) else {}
    new |= {name: text for name, text in study.items() if name not in other and name.partition("-")[0] not in numbers}
    for name in sorted(differing):
        merged.left_out.append(f"{folder / name} is left out: {target / name} has another choice, which stays")
    target.mkdir(parents=True, exist_ok=True)
    for name, text in new.items():
        write_json(target / name, text)
    merged.there += not new and not differing
    return bool(new)


def _read_search(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the files of a search by their names, checked."""
    names = [STUDY, *(path.name for path in paths_in(folder, "*.json") if CHOICE.fullmatch(path.name))]
    texts = {name: read_json(folder / name) for name in names}
    study_of(folder, texts[STUDY], texts)
    return texts


def _check_predictions(folder: Path) -> None:
    try:
        read_predictions(folder)
    except UserError as error:
        raise _LeftOut(f"{folder} is left out: {error}") from None


def _check_weights(folder: Path, expected: str, *, missing_is_fine: bool) -> None:
    path = folder / WEIGHTS
    if missing_is_fine and not path.exists():
        return
    try:
        found = weights_hash(read_weights(path))
    except UserError as error:
        raise _LeftOut(f"{folder} is left out: {error}") from None
    if found != expected:
        raise _LeftOut(f"{folder} is left out: {WEIGHTS} is damaged, or belongs to another result")


def _read(names: Iterable[str], folder: Path) -> dict[str, bytes]:
    """Return the contents of regular files of a folder, by their names."""
    contents = {}
    for name in names:
        try:
            contents[name] = read_bytes(folder / name)
        except Unreadable as error:
            raise _LeftOut(f"{folder} is left out: {name} {error}") from None
    return contents


def _write(contents: Mapping[str, bytes], folder: Path) -> None:
    """Write files, each as a whole, in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomic(folder / name, content)
