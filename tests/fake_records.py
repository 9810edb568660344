"""Records of cells that were never run: what tables need, in the form that runs leave it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbench.experiment.identity import identity_hash, identity_text
from kdbench.experiment.protocol import Protocol, load_protocol

if TYPE_CHECKING:
    from kdbench.experiment.cell import Cell

FINGERPRINT = "f" * 64


def fake_record(
    method: str,
    seed: int,
    top1: float,
    *,
    protocol: Protocol | None = None,
    teacher: str | None = "resnet20",
    student: str = "resnet8",
    teacher_id: str = "cell:abcdef0123",
    teacher_accuracy: float = 80.0,
    settings: dict[str, Any] | None = None,
    chosen: dict[str, Any] | None = None,
    version: int = 1,
    views: int = 1,
    family: str = "logits",
    **changes: Any,
) -> dict[str, Any]:
    """A record; ``changes`` replace values at its top."""
    protocol = protocol or load_protocol("digits-demo-v1")
    config = {
        "protocol": protocol.identity(),
        "teacher": {"network": teacher, "id": teacher_id} if teacher else {},
        "student": student,
        "method": {"name": method, "version": version, **(settings or {}), **(chosen or {})},
        "seed": seed,
    }
    visited = protocol.epochs * 1000
    record: dict[str, Any] = {
        "cell": identity_hash(identity_text(config)),
        "protocol": protocol.name,
        "protocol_version": protocol.rules.version,
        "overrides": protocol.overrides(),
        "dataset": protocol.dataset,
        "data_fingerprint": FINGERPRINT,
        "teacher": {"network": teacher, "id": teacher_id, "weights": f"w{teacher_id}", "accuracy": teacher_accuracy}
        if teacher
        else None,
        "student": student,
        "method": method,
        "family": family if teacher else "none",
        "settings": {**(settings or {}), **(chosen or {})},
        "settings_chosen": chosen or {},
        "settings_source": f"source of {method}",
        "seed": seed,
        "epochs": protocol.epochs,
        "precision": protocol.precision,
        "epoch_rule": "last",
        "top1": top1,
        "top5": min(top1 + 20, 100.0),
        "nll": 1.0,
        "ece": 2.0,
        "best_on_test": {"top1": min(top1 + 0.3, 100.0), "epoch": max(1, protocol.epochs - 1)},
        "loss": {"ce": 0.1},
        "cost": {
            "train_seconds": 20.0 * views,
            "evaluate_seconds": 1.0,
            "images_per_second": 1000.0,
            "views_per_image": views,
            "student_views": visited * views,
            "teacher_outputs": "live" if teacher else None,
            "teacher_forwards": visited * views if teacher else 0,
            "cells_together": 1,
            "compiled": False,
            "peak_memory_mb": 100.0,
            "extra_parameters": 1000 if teacher else 0,
        },
        "weights": "0" * 64,
        "environment": {
            "versions": {"kdbench": "0.1.0", "torch": "2.14.1"},
            "commit": "0123456789abcdef",
            "dirty": False,
            "device": "a device",
            "device_type": "cpu",
            "threads": 1,
            "system": "Linux",
        },
        "config": config,
    }
    if teacher:
        record |= {"agreement": 90.0, "teacher_kl": 0.5}
    return record | changes


def record_of(cell: Cell, top1: float) -> dict[str, Any]:
    """A record of a cell that was never run."""
    return fake_record(
        cell.method,
        cell.seed,
        top1,
        protocol=cell.protocol,
        teacher=cell.teacher.network if cell.teacher else None,
        student=cell.student,
        teacher_id=cell.teacher.id if cell.teacher else "",
        settings=cell.settings.values(),
        chosen=cell.settings.chosen,
        version=cell.method_version,
    )


def write_records(folder: Path, records: Iterable[dict[str, Any]], indent: int | None = None) -> list[Path]:
    """Write each record into a folder of its own; returns the paths."""
    paths = []
    for number, record in enumerate(records):
        path = folder / str(number) / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record, indent=indent))
        paths.append(path)
    return paths


def fake_grid(
    pairs: Sequence[str],
    gains: dict[str, float],
    seeds: int,
    *,
    protocol: Protocol | None = None,
    sd: float = 0.2,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Records of students alone (``ce``) and of methods that gain so many points, under noise."""
    rules = protocol or load_protocol("cifar100-crd-v1")
    generator = np.random.default_rng(seed)
    families = ("logits", "features", "relations", "contrast")
    templates: dict[str, dict[str, Any]] = {}
    students = dict.fromkeys(pair.partition(">")[2] for pair in pairs)
    cells = [(None, student, "ce", 0.0) for student in students]
    cells += [(*pair.split(">"), method, gain) for pair in pairs for method, gain in gains.items()]  # type: ignore[misc]
    for teacher, student, method, gain in cells:
        base, family = rules.accuracy.get(student, 70.0), families[len(method) % len(families)]
        for number in range(1, seeds + 1):
            top1 = round(float(base + gain + generator.normal(0, sd)), 2)
            made = {"teacher_accuracy": rules.accuracy.get(teacher or "", 80.0), "teacher_id": f"cell:{teacher}"}
            key = f"{teacher} {student} {method}"
            if key not in templates:
                templates[key] = fake_record(
                    method, number, top1, protocol=rules, teacher=teacher, student=student, family=family, **made
                )
            record = copy.copy(templates[key])
            config = record["config"] | {"seed": number}
            yield record | {
                "cell": identity_hash(identity_text(config)),
                "config": config,
                "seed": number,
                "top1": top1,
                "best_on_test": {
                    "top1": min(round(top1 + abs(float(generator.normal(0.3, 0.1))), 2), 100.0),
                    "epoch": min(200, rules.epochs),
                },
            }
