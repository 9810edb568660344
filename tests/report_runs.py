"""Run folders for a report: records with their metrics, as cells leave them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fake_records import fake_record, write_records
from markupsafe import Markup

from kdbench.analysis.plots.drawing import DrawnPlot, Plot

PAIRS = (("resnet20", "resnet8"), ("resnet56", "resnet20"))
METHODS = {"ce": (70.0, "none"), "kd": (71.5, "logits"), "crd": (72.0, "contrast"), "reviewkd": (73.1, "features")}
EPOCHS = 12


def records(seeds: int = 2) -> list[dict[str, Any]]:
    """Three methods and the student alone on two pairs; ``reviewkd`` is best, ``kd`` takes the longest."""
    found = []
    for teacher, student in PAIRS:
        for method, (top1, family) in METHODS.items():
            for seed in range(1, seeds + 1):
                taught = {"teacher": teacher, "teacher_id": f"cell:{teacher}"} if method != "ce" else {"teacher": None}
                made = fake_record(method, seed, top1 + seed / 10, student=student, family=family, **taught)
                made["cost"]["train_seconds"] = {"ce": 10.0, "kd": 100.0}.get(method, 20.0)
                found.append(made)
    return found


def write_runs(folder: Path, made: Iterable[dict[str, Any]], *, metrics: bool = True) -> list[Path]:
    """Write records, each with a line of metrics an epoch that ends at its accuracy; returns their folders."""
    folders, made = [], [record | {"loss": {"ce": 2 / EPOCHS, "kd": 1.0}} if metrics else record for record in made]
    for record, path in zip(made, write_records(folder, made), strict=True):
        if metrics:
            lines = [json.dumps(line(record, epoch)) for epoch in range(1, EPOCHS + 1)]
            (path.parent / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        folders.append(path.parent)
    return folders


def line(record: dict[str, Any], epoch: int) -> dict[str, Any]:
    """An epoch's metrics."""
    return {"epoch": epoch, "lr": 0.05, "loss/ce": 2 / epoch, "loss/kd": 1.0, "top1": record["top1"] + (epoch - EPOCHS)}


def undrawn(plot: Plot) -> DrawnPlot:
    """A plot that was never drawn, which takes most of the time."""
    return DrawnPlot(plot.name, plot.title, Markup("<svg></svg>"), "<svg/>", b"%PDF")
