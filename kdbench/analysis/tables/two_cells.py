"""Compare two finished cells by what they predict for each test image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from kdbench.analysis.comparison import MEASURES
from kdbench.analysis.stats.predictions import Contingency
from kdbench.analysis.tables.differences import p_text
from kdbench.analysis.tables.entries import fixed
from kdbench.analysis.tables.table import MISSING, Entry, Table, words
from kdbench.errors import UserError
from kdbench.experiment.folder import PREDICTIONS, RECORD, parse_record
from kdbench.experiment.predictions import Predictions, read_predictions
from kdbench.utils.reading import Missing, Unreadable


def two_cells(first: Path, second: Path) -> list[Table]:
    """Make tables of the measures of two cells, and of the images on which they differ.

    Raises
    ------
    UserError
        A folder is not that of a finished cell, has no predictions, or they are for other images than the other's.
    """
    records, predictions = zip(*map(_read, (first, second)), strict=True)
    try:
        images = Contingency.of(*predictions)
    except ValueError as error:
        raise UserError(f"{first} and {second} cannot be compared: {error}") from None
    labels = [_label(record) for record in records]
    if labels[0] == labels[1]:
        labels = [f"{label} ({folder})" for label, folder in zip(labels, (first, second), strict=True)]
    title = f"A: {labels[0]}; B: {labels[1]}"
    num = images.num_images
    top1 = [100 * (images.both_right + alone) / num for alone in (images.only_first, images.only_second)]
    measures = {"top-1 %": top1} | {
        f"{MEASURES[name]} %": [float(record.get(name, math.nan)) for record in records]
        for name in ("balanced_accuracy", "macro_f1")
    }
    rows = [
        (Entry(name), *words(*(fixed(value) or MISSING for value in (a, b)), fixed(a - b, sign=True) or MISSING))
        for name, (a, b) in measures.items()
    ]
    counts = images.both_right, images.only_first, images.only_second, images.both_wrong
    shares = images.agreement, images.error_overlap, images.same_errors
    texts = *map(str, counts), *(fixed(100 * share) or MISSING for share in shares), p_text(images.p)
    heads = ("both right", "only A", "only B", "both wrong", "agreement %", "error overlap %", "same error %")
    return [
        Table(title, (("", "A", "B", "A - B"),), tuple(rows), (f"on {num:,} test images, after the last epoch",)),
        Table(
            f"{title}: image by image",
            (("images", *heads, "McNemar p"),),
            (words(str(num), *texts),),
            (
                "agreement: images for which both predict the same class",
                "error overlap: of the images that A or B gets wrong, those that both get wrong; same error: of these, "
                "those that both take for the same class",
                "McNemar p: two-sided, exact, that A and B are right equally often; about these two networks, not "
                "about other seeds: 'kdbench compare' of a folder of runs compares methods over seeds",
            ),
        ),
    ]


def _read(folder: Path) -> tuple[dict[str, Any], Predictions]:
    try:
        record = parse_record(folder / RECORD)
    except Missing:
        raise UserError(
            f"{folder} is not the folder of a finished cell: name one with a {RECORD}, such as "
            "runs/PROTOCOL/TEACHER-STUDENT/METHOD/seed1-HASH"
        ) from None
    except Unreadable as error:
        raise UserError(f"{folder / RECORD} {error}") from None
    predictions = read_predictions(folder)
    if predictions is None:
        raise UserError(
            f"{folder} has no {PREDICTIONS}: the cell was run with --no-predictions, or by an earlier version; move "
            "its folder away and run the cell again to have them"
        )
    return record, predictions


def _label(record: dict[str, Any]) -> str:
    """Name a cell by its method, its networks and its seed."""
    networks = f"{record['teacher']['network']} > {record['student']}" if record["teacher"] else record["student"]
    return f"{record['method']} {networks} seed {record['seed']}"
