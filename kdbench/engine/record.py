"""The record that a finished cell leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kdbench.data.images import Dataset
from kdbench.engine.code import code_of
from kdbench.engine.environment import environment
from kdbench.engine.tally import VALIDATION, Tally
from kdbench.experiment.cell import Cell
from kdbench.experiment.record_checks import sealed
from kdbench.experiment.registry import load_method
from kdbench.models.build import input_of
from kdbench.net import Net
from kdbench.utils.device import peak_memory_mb


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What an epoch visits, what the method adds, and how the cell was run."""

    num_images: int
    """Images an epoch trains on."""
    num_trained: int
    """Images that are not held out."""
    views_per_image: int
    student_epochs: int
    """Epochs, those of pre-training among them, in which the student is run."""
    teacher_epochs: int
    """Epochs in which the teacher's outputs are needed."""
    extra_parameters: int
    """Trainable parameters of the method's own."""
    teacher_outputs: str | None
    """``live``, ``cache``, ``file``, or None without a teacher."""
    live_teachers: int
    """Networks that were queried for each view: the members of an ensemble count each."""
    computed_logits: bool
    """Whether the teacher's logits were computed from penultimate features in a cache."""
    cells_together: int
    """Cells that trained in lockstep with this one, itself included."""
    devices: tuple[int, ...]
    """Devices that computed the cell; several numbers where it was resumed on another number of them."""
    compiled: bool
    """Whether ``--compile`` was given."""


def make_record(
    cell: Cell,
    dataset: Dataset,
    teacher: dict[str, Any] | None,
    tally: Tally,
    counts: Counts,
    student: Net,
    weights: str,
    predictions: str | None,
    device: torch.device,
) -> dict[str, Any]:
    """Return the record as plain values, with its hash.

    The metrics are those of the last epoch; the best epoch on the test set is stored under a name that says so.

    Parameters
    ----------
    teacher
        What is known of the teacher; see :meth:`kdbench.teachers.sources.TeacherSource.described`.
    tally
        With a row of metrics for each epoch of the protocol, and the time spent on training and on evaluation. What
        cells in lockstep share counts for each of them in full, so that it is about the time of the cell in a run of
        its own.
    student
        What was trained.
    weights
        Hash of its weights.
    predictions
        Hash of the file with its predictions; None where there is none.
    """
    history, seconds = tally.history, tally.seconds
    protocol, last = cell.protocol, history[-1]
    best = max(history, key=lambda row: row["top1"])
    views = counts.num_images * counts.views_per_image
    code = {field: source.text for field, source in code_of(cell).items()}
    record = {
        "cell": cell.id,
        "protocol": protocol.name,
        "protocol_version": protocol.rules.version,
        "overrides": protocol.overrides(),
        "dataset": protocol.dataset,
        "data_name": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "test_set": {
            "images": len(dataset.test_labels),
            "largest_class": int(dataset.test_labels.bincount().max()),
        },
        "teacher": teacher,
        "student": cell.student_label,
        **({"student_source": code["student_source"]} if "student_source" in code else {}),
        "method": cell.method,
        "method_source": code["method_source"],
        **({"base_source": code["base_source"]} if "base_source" in code else {}),
        "family": load_method(cell.method).FAMILY,
        "settings": cell.settings.values(),
        "settings_chosen": cell.settings.chosen,
        "settings_source": cell.settings.source,
        "seed": cell.seed,
        "epochs": protocol.epochs,
        "precision": protocol.precision,
        "epoch_rule": protocol.rules.evaluation.epoch,
        **{name: v for name, v in last.items() if name not in {"epoch", "lr"} and "/" not in name},
        "per_class": tally.per_class,
        "best_on_test": {"top1": best["top1"], "epoch": best["epoch"]},
        **_validation(history, len(dataset.train_labels) - counts.num_trained),
        "loss": {name.removeprefix("loss/"): v for name, v in last.items() if name.startswith("loss/")},
        **({"first_losses": tally.first_losses} if tally.first_losses else {}),
        "cost": {
            "train_seconds": seconds["train"],
            "evaluate_seconds": seconds["evaluate"],
            "images_per_second": len(cell.epochs) * counts.num_images / seconds["train"],
            "views_per_image": counts.views_per_image,
            "pretraining_epochs": len(cell.epochs) - protocol.epochs,
            "student_views": views * counts.student_epochs,
            "teacher_outputs": counts.teacher_outputs,
            **({"teacher_logits": "from penultimate features"} if counts.computed_logits else {}),
            "teacher_forwards": views * counts.teacher_epochs * counts.live_teachers,
            "cells_together": counts.cells_together,
            "devices": list(counts.devices),
            "compiled": counts.compiled,
            "peak_memory_mb": peak_memory_mb(device),
            "extra_parameters": counts.extra_parameters,
        },
        "weights": weights,
        "input": input_of(student),
        **({"predictions": predictions} if predictions else {}),
        "environment": environment(device),
        "config": cell.identity(),
    }
    return sealed(record)


def _validation(history: list[dict[str, Any]], num_images: int) -> dict[str, Any]:
    """Return what a record holds of held-out images: the last epoch, and the one that is best on them."""
    if not num_images:
        return {}
    top1, nll = (f"{VALIDATION}{name}" for name in ("top1", "nll"))
    last, best = history[-1], max(history, key=lambda row: row[top1])
    chosen = {"epoch": best["epoch"], "top1": best[top1], "test_top1": best["top1"]}
    return {"validation": {"images": num_images, "top1": last[top1], "nll": last[nll], "best": chosen}}
