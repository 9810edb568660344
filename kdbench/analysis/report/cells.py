"""The cells of a report: the table that links to them, and what the page's script shows of each.

Configurations, environments and settings are the same few for many cells: each is stored once, and a cell names its
number.
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

from kdbench.analysis.comparison import ComparedPair, Comparison, Row
from kdbench.analysis.report.curves import Curve, Curves
from kdbench.analysis.tables.table import MISSING, Entry, Table
from kdbench.experiment.folder import RECORD
from kdbench.experiment.identity import identity_text
from kdbench.utils.files import read_object

CELLS_LISTED = 10
"""Cells of one method and pair that the table links to; the page's script lists the others when asked."""
_POINTS = 60
"""Of a curve, at most."""
_SHARED = ("config", "environment", "settings", "settings_chosen", "settings_source", "overrides", "teacher")
_TOLD = {"cell", "seed", "protocol", "student", "method", *_SHARED}
"""Parts of a record that have a place of their own."""
_LABELS = {
    "top1": "top-1 after the last epoch, %",
    "top5": "top-5 after the last epoch, %",
    "nll": "NLL, nats",
    "ece": "expected calibration error, %",
    "agreement": "predictions equal to the teacher's, %",
    "teacher_kl": "KL from the teacher, nats",
    "best_on_test.top1": "best top-1, selected on the test set, %",
    "best_on_test.epoch": "epoch of it",
    "cost.train_seconds": "training, s",
    "cost.evaluate_seconds": "evaluation, s",
    "cost.images_per_second": "images per second",
    "cost.views_per_image": "views of an image in a step",
    "cost.pretraining_epochs": "epochs of pre-training",
    "cost.student_views": "images seen by the student",
    "cost.teacher_outputs": "teacher outputs",
    "cost.teacher_forwards": "images seen by the teacher",
    "cost.cells_together": "cells trained together",
    "cost.compiled": "compiled",
    "cost.peak_memory_mb": "peak memory, MB",
    "cost.extra_parameters": "parameters of the method's own",
    "weights": "hash of the weights",
    "family": "family of the method",
    "data_fingerprint": "fingerprint of the data",
}
_GROUPS = {"cost": "Cost", "loss": "Training loss at the end"}
_METRICS = ("top1", "top5", "nll", "ece", "agreement", "teacher_kl", "best_on_test.top1", "best_on_test.epoch")
"""What stands first; parts of a record that have no group are told last."""


@dataclass(slots=True)
class Cells:
    """What the page's script needs to show every cell."""

    runs: Path
    pool: list[Any] = field(default_factory=list)
    """Values that cells share."""
    cells: dict[str, list[Any]] = field(default_factory=dict)
    """By the first letters of the id: title, section, pool number of each part, values, folder, curve."""
    more: dict[str, list[list[Any]]] = field(default_factory=dict)
    """Cells that a place of a table does not list: id and seed."""
    problems: list[str] = field(default_factory=list)
    digits: int = 8
    """Letters of an id that tell all cells apart."""
    _numbers: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, runs: Path, comparisons: Iterable[Comparison]) -> Cells:
        """Without cells so far, for those of some comparisons."""
        known = {str(cell) for one in comparisons for cell in _frames(one, "cell")}
        digits = next((n for n in range(8, 64, 4) if len({cell[:n] for cell in known}) == len(known)), 64)
        return cls(runs, digits=digits)

    def add(self, comparison: Comparison, section: str, curves: Curves) -> None:
        """Take all cells of a comparison; one that stands in several pairs is taken once."""
        for (row, pair), result in comparison.results.items():
            for seed, own in zip(result.frame.index.tolist(), _records(result.frame), strict=True):
                key = own["cell"][: self.digits]
                if key not in self.cells:
                    where = pair.name if own["teacher"] else pair.student
                    curve = curves.by_folder.get(own["folder"])
                    self.cells[key] = self._cell(f"{row.label}, {where}, seed {seed}", section, own, curve)

    def as_json(self) -> Markup:
        """All of it, as text that no HTML parser takes for markup."""
        labels = {"pool": self.pool, "cells": self.cells, "more": self.more, "runs": str(self.runs)}
        # All but ASCII is escaped by json itself, the separators U+2028 and U+2029 among it.
        text = json.dumps(labels, allow_nan=False, separators=(",", ":"))
        for letter in "<>&":
            text = text.replace(letter, f"\\u{ord(letter):04x}")
        return Markup(text)  # noqa: S704

    def table(self, comparison: Comparison, section: str) -> tuple[Table, dict[tuple[int, int], Markup]]:
        """Methods x pairs with a link to each cell: the table, and what stands in its places."""
        rows, filled = [], {}
        for number, row in enumerate(comparison.rows):
            entries = [Entry(row.label)]
            for column, pair in enumerate(comparison.pairs, 1):
                result = comparison.result(row, pair)
                entries.append(Entry(MISSING if result is None else str(len(result.frame))))
                if result:
                    place = f"{section}-{number}-{column}"
                    filled[number, column] = self._links(row, pair, result.frame, len(result.begun), place)
            rows.append(tuple(entries))
        heads = ("method", *(pair.name for pair in comparison.pairs))
        return Table(f"{comparison.title}: cells by seed", (heads,), tuple(rows)), filled

    def _links(self, row: Row, pair: ComparedPair, frame: pd.DataFrame, num_begun: int, place: str) -> Markup:
        ids = [(str(cell)[: self.digits], seed) for seed, cell in zip(frame.index, frame["cell"], strict=True)]
        link = Markup('<a href="#cell/{}" aria-label="{}, {}, seed {}">{}</a>')
        told = [link.format(cell, row.label, pair.name, seed, seed) for cell, seed in ids[:CELLS_LISTED]]
        rest = ids[CELLS_LISTED:]
        if rest:
            self.more[place] = [[cell, int(seed)] for cell, seed in rest]
            told.append(Markup('<span class="more" data-place="{}">and {} more</span>').format(place, len(rest)))
        if num_begun:
            told.append(Markup('<span class="quiet">{} not finished</span>').format(num_begun))
        return Markup('<span class="seeds">{}</span>').format(Markup(" ").join(told))

    def _cell(self, title: str, section: str, own: Mapping[str, Any], curve: Curve | None) -> list[Any]:
        record = read_object(Path(own["folder"]) / RECORD)
        if record.get("cell") != own["cell"]:
            self.problems.append(f"{Path(own['folder']) / RECORD} was changed while the report was made")
            record = {}
        flat = dict(_flat({name: value for name, value in record.items() if name not in _TOLD}))
        flat = {name: flat.pop(name) for name in _METRICS if name in flat} | flat
        names = [[_group(name), _label(name)] for name in flat]
        config = {name: value for name, value in record.get("config", {}).items() if name != "seed"}
        parts = [self._shared((record | {"config": config}).get(name)) for name in _SHARED]
        values = [_short(value) for value in flat.values()]
        return [title, section, own["cell"], parts, self._shared(names), values, self._folder(own), _thinned(curve)]

    def _folder(self, own: Mapping[str, Any]) -> str:
        folder = Path(own["folder"])
        return str(folder.relative_to(self.runs)) if folder.is_relative_to(self.runs) else str(folder)

    def _shared(self, value: Any) -> int:
        """The number of a value in the pool."""
        text = identity_text(value)
        if text not in self._numbers:
            self._numbers[text] = len(self.pool)
            self.pool.append(json.loads(text, parse_constant=lambda _: None))
        return self._numbers[text]


def _frames(comparison: Comparison, column: str) -> Iterable[Any]:
    for result in comparison.results.values():
        yield from result.frame[column]


def _records(frame: pd.DataFrame) -> list[dict[str, str]]:
    columns = ("cell", "folder", "teacher")
    return [dict(zip(columns, row, strict=True)) for row in zip(*(frame[name] for name in columns), strict=True)]


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    """Nested values by dotted names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _group(name: str) -> str:
    return "Results" if name in _METRICS else _GROUPS.get(name.partition(".")[0], "More of the record")


def _label(name: str) -> str:
    if name.startswith("loss."):
        return name.removeprefix("loss.")
    return _LABELS.get(name, name)


def _short(value: Any) -> Any:
    """A number with six digits that count."""
    if not isinstance(value, float):
        return str(value) if isinstance(value, list) else value
    if not math.isfinite(value):
        return None
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() else short


def _thinned(curve: Curve | None) -> list[list[Any]] | None:
    """Epochs, accuracies and losses of at most so many points, evenly spaced, the first and the last among them."""
    if not curve:
        return None
    last = len(curve.epochs) - 1
    num = min(last, _POINTS - 1)
    chosen = [round(number * last / num) for number in range(num + 1)] if num else [0]
    columns = (curve.epochs, curve.top1, [float(f"{value:.4g}") for value in curve.loss])
    return [[_short(column[place]) for place in chosen] for column in columns]
