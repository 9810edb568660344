"""Collect the cells of a report: the table that links to them, and the data that the page's script shows of each.

Many cells share configurations, environments and settings: each is stored once, and a cell holds its number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from kdbench.analysis.comparison import ComparedPair, Comparison, Row, num_digits
from kdbench.analysis.plots.curves import Curve, Curves
from kdbench.analysis.tables.table import MISSING, Entry, Table
from kdbench.experiment.folder import RECORD
from kdbench.experiment.identity import identity_text
from kdbench.utils.reading import read_object

CELLS_LISTED = 10
"""Number of cells per method and pair that the table lists; the page's script lists the others on request."""
_MAX_POINTS = 60
"""Largest number of points of a curve."""
_SHARED = ("config", "environment", "settings", "settings_chosen", "settings_source", "overrides", "teacher")
_SHOWN_ELSEWHERE = {"cell", "seed", "protocol", "student", "method", "per_class", *_SHARED}
"""Fields of a record that are not listed with its metrics and cost."""
_LABELS = {
    "top1": "top-1 after the last epoch, %",
    "top5": "top-5 after the last epoch, %",
    "balanced_accuracy": "balanced accuracy, %",
    "macro_f1": "macro F1, %",
    "nll": "NLL, nats",
    "ece": "expected calibration error, %",
    "agreement": "predictions equal to the teacher's, %",
    "teacher_kl": "KL from the teacher, nats",
    "best_on_test.top1": "best top-1, selected on the test set, %",
    "best_on_test.epoch": "best epoch on the test set",
    "cost.train_seconds": "training, s",
    "cost.evaluate_seconds": "evaluation, s",
    "cost.images_per_second": "images per second",
    "cost.views_per_image": "views of each image per step",
    "cost.pretraining_epochs": "epochs of pre-training",
    "cost.student_views": "forward passes of the student, images",
    "cost.teacher_outputs": "teacher outputs",
    "cost.teacher_logits": "teacher logits",
    "cost.teacher_forwards": "forward passes of the teacher, images",
    "cost.cells_together": "cells trained in lockstep",
    "cost.devices": "devices that computed the cell",
    "cost.compiled": "compiled",
    "cost.peak_memory_mb": "peak memory, MB",
    "cost.extra_parameters": "trainable parameters that the method adds",
    "weights": "hash of the weights",
    "predictions": "hash of the predictions",
    "record_hash": "hash of the record",
    "family": "family of the method",
    "data_fingerprint": "fingerprint of the data",
}
_GROUPS = {"cost": "Cost", "loss": "Training loss at the end"}
_METRICS = (
    *("top1", "top5", "balanced_accuracy", "macro_f1", "nll", "ece", "agreement", "teacher_kl"),
    *("best_on_test.top1", "best_on_test.epoch"),
)
"""Fields that are listed first; fields without a group are listed last."""


@dataclass(slots=True)
class Cells:
    """The data that the page's script needs to show every cell."""

    runs: Path
    pool: list[Any] = field(default_factory=list)
    """Values that cells share, each stored once."""
    cells: dict[str, list[Any]] = field(default_factory=dict)
    """For each cell, by the first letters of its id: title, section, id, numbers in the pool, values, folder, curve."""
    more: dict[str, list[list[Any]]] = field(default_factory=dict)
    """Id and seed of the cells that an entry of the table does not list, by entry."""
    problems: list[str] = field(default_factory=list)
    digits: int = 8
    """Number of letters of an id that distinguish all cells."""
    _numbers: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, runs: Path, comparisons: Iterable[Comparison]) -> Cells:
        """Make an empty collection for the cells of some comparisons."""
        ids = (str(cell) for comparison in comparisons for cell in _values(comparison, "cell"))
        return cls(runs, digits=num_digits(ids))

    def add(self, comparison: Comparison, section: str, curves: Curves) -> None:
        """Add all cells of a comparison; a cell of several pairs is added once."""
        for (row, pair), result in comparison.results.items():
            for seed, cell in zip(result.frame.index.tolist(), _records(result.frame), strict=True):
                key = cell["cell"][: self.digits]
                if key not in self.cells:
                    networks = pair.name if cell["teacher"] else pair.student_label
                    curve = curves.by_folder.get(cell["folder"])
                    self.cells[key] = self._cell(f"{row.label}, {networks}, seed {seed}", section, cell, curve)

    def as_json(self) -> Markup:
        """Write all data as JSON that no HTML parser takes for markup."""
        data = {"pool": self.pool, "cells": self.cells, "more": self.more, "runs": str(self.runs)}
        # json escapes all but ASCII itself, including the separators U+2028 and U+2029.
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
        for letter in "<>&":
            text = text.replace(letter, f"\\u{ord(letter):04x}")
        return Markup(text)  # noqa: S704

    def table(self, comparison: Comparison, section: str) -> tuple[Table, dict[tuple[int, int], Markup]]:
        """Make the table of methods x pairs, and the links to cells that replace the text of its entries."""
        rows, filled = [], {}
        for number, row in enumerate(comparison.rows):
            entries = [Entry(row.label)]
            for column, pair in enumerate(comparison.pairs, 1):
                result = comparison.result(row, pair)
                entries.append(Entry(MISSING if result is None else str(len(result.frame))))
                if result:
                    entry = f"{section}-{number}-{column}"
                    filled[number, column] = self._links(row, pair, result.frame, len(result.unfinished), entry)
            rows.append(tuple(entries))
        heads = ("method", *(pair.name for pair in comparison.pairs))
        return Table(f"{comparison.title}: cells by seed", (heads,), tuple(rows)), filled

    def _links(self, row: Row, pair: ComparedPair, frame: pd.DataFrame, num_unfinished: int, entry: str) -> Markup:
        ids = [(str(cell)[: self.digits], seed) for seed, cell in zip(frame.index, frame["cell"], strict=True)]
        link = Markup('<a href="#cell/{}" aria-label="{}, {}, seed {}">{}</a>')
        links = [link.format(cell, row.label, pair.name, seed, seed) for cell, seed in ids[:CELLS_LISTED]]
        rest = ids[CELLS_LISTED:]
        if rest:
            self.more[entry] = [[cell, int(seed)] for cell, seed in rest]
            links.append(Markup('<span class="more" data-entry="{}">and {} more</span>').format(entry, len(rest)))
        if num_unfinished:
            links.append(Markup('<span class="quiet">{} not finished</span>').format(num_unfinished))
        return Markup('<span class="seeds">{}</span>').format(Markup(" ").join(links))

    def _cell(self, title: str, section: str, cell: Mapping[str, str], curve: Curve | None) -> list[Any]:
        record = read_object(Path(cell["folder"]) / RECORD)
        if record.get("cell") != cell["cell"]:
            self.problems.append(f"{Path(cell['folder']) / RECORD} changed while the report was written")
            record = {}
        flat = dict(_flat({name: value for name, value in record.items() if name not in _SHOWN_ELSEWHERE}))
        flat = {name: flat.pop(name) for name in _METRICS if name in flat} | flat
        names = [[_group(name), _label(name)] for name in flat]
        config = {name: value for name, value in record.get("config", {}).items() if name != "seed"}
        parts = [self._shared((record | {"config": config}).get(name)) for name in _SHARED]
        values = [_short(value) for value in flat.values()]
        folder = self._relative(Path(cell["folder"]))
        return [title, section, cell["cell"], parts, self._shared(names), values, folder, _thinned(curve)]

    def _relative(self, folder: Path) -> str:
        return str(folder.relative_to(self.runs)) if folder.is_relative_to(self.runs) else str(folder)

    def _shared(self, value: Any) -> int:
        """Return the number of a value in the pool; add it if it is new."""
        text = identity_text(value)
        if text not in self._numbers:
            self._numbers[text] = len(self.pool)
            self.pool.append(json.loads(text, parse_constant=lambda _: None))
        return self._numbers[text]


def _values(comparison: Comparison, column: str) -> Iterable[Any]:
    for result in comparison.results.values():
        yield from result.frame[column]


def _records(frame: pd.DataFrame) -> list[dict[str, str]]:
    columns = ("cell", "folder", "teacher")
    return [dict(zip(columns, row, strict=True)) for row in zip(*(frame[name] for name in columns), strict=True)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield nested values with dotted names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _group(name: str) -> str:
    return "Results" if name in _METRICS else _GROUPS.get(name.partition(".")[0], "Other fields of the record")


def _label(name: str) -> str:
    if name.startswith("loss."):
        return name.removeprefix("loss.")
    return _LABELS.get(name, name)


def _short(value: Any) -> Any:
    """Round a number to six significant digits; lists become text, non-finite numbers None."""
    if not isinstance(value, float):
        return str(value) if isinstance(value, list) else value
    if not math.isfinite(value):
        return None
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() else short


def _thinned(curve: Curve | None) -> list[list[Any]] | None:
    """Return epochs, accuracies and losses of evenly spaced points, including the first and the last."""
    if not curve:
        return None
    last = len(curve.epochs) - 1
    num = min(last, _MAX_POINTS - 1)
    chosen = [round(number * last / num) for number in range(num + 1)] if num else [0]
    columns = (curve.epochs, curve.top1, [float(f"{value:.4g}") for value in curve.loss])
    return [[_short(column[index]) for index in chosen] for column in columns]
