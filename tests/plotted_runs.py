"""Runs of a report whose cells have predictions, and their teachers' own cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from fake_records import fake_record
from report_runs import records, write_runs

from kdbench.experiment.identity import identity_hash, identity_text
from kdbench.experiment.predictions import Predictions, write_predictions

NUM_IMAGES, NUM_CLASSES = 120, 6
LABELS = np.arange(NUM_IMAGES) % NUM_CLASSES


def predictions(seed: int, *, strength: float = 2.0) -> Predictions:
    """Random logits, largest at the label more often than not."""
    logits = np.random.default_rng(seed).normal(size=(NUM_IMAGES, NUM_CLASSES))
    logits[np.arange(NUM_IMAGES), LABELS] += strength
    return Predictions(labels=LABELS, predicted=logits.argmax(axis=1), logits=logits.astype(np.float16))


def taught_by(record: dict[str, Any], teacher: str) -> dict[str, Any]:
    """A record whose teacher is the one that a cell trained."""
    if record["teacher"] is None:
        return record
    config = record["config"] | {"teacher": {"network": record["teacher"]["network"], "id": f"cell:{teacher}"}}
    return record | {
        "teacher": record["teacher"] | {"id": f"cell:{teacher}", "weights": record["weights"]},
        "config": config,
        "cell": identity_hash(identity_text(config)),
    }


def plotted_records(seeds: int = 2) -> list[dict[str, Any]]:
    """The records of a report on its first pair, and that of the teacher at the end."""
    teacher = fake_record("ce", 0, 80.0, teacher=None, student="resnet20")
    one_pair = [record for record in records(seeds) if record["student"] == "resnet8"]
    return [*(taught_by(record, teacher["cell"]) for record in one_pair), teacher]


def write_plotted_runs(folder: Path, made: list[dict[str, Any]] | None = None) -> list[Path]:
    """Write records with metrics and predictions; returns their folders."""
    folders = write_runs(folder, plotted_records() if made is None else made)
    for number, path in enumerate(folders):
        record = json.loads((path / "record.json").read_text())
        record["predictions"] = write_predictions(path, predictions(number, strength=1 + number % 3))
        (path / "record.json").write_text(json.dumps(record))
    return folders
