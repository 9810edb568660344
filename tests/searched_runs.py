"""A search that was never run: a study, its choices, the records of its trials, and runs that are compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from fake_records import fake_record

from kdbench.experiment.protocol import load_protocol
from kdbench.search.files import RULE

SHARE = 0.1
SCORES = {0: (60.0,), 1: (64.0, 61.0, 62.0), 2: (63.0, 62.5, 63.5), 3: (62.0, 60.0, 60.0), 4: (None,)}
"""Accuracies of trials on the held-out images: of the first seed, and of two further ones of the best."""
SEEDS = (10001, 10002, 10003)


def write_search(
    runs: Path,
    scores: Mapping[int, Sequence[float | None]] = SCORES,
    *,
    method: str = "kd",
    teacher: str | None = "resnet20",
    used_on: Sequence[str] = (),
    ends: bool = True,
    **changes: Any,
) -> Path:
    """Write a study of one rung whose trial i has ``temperature`` i + 1 (``label_smoothing`` i / 10 without a teacher).

    Parameters
    ----------
    used_on
        Ids of further teachers of resnet8 that taught with the chosen settings.
    ends
        Whether the choices are written, too.
    changes
        Values of the study's file.
    """
    protocol = load_protocol("digits-demo-v1").override(epochs=2, validation=SHARE)
    points = [_settings(method, trial) for trial in sorted(scores)]
    teacher_id = "cell:abcdef0123" if teacher else ""
    cells: dict[int, list[str]] = {trial: [] for trial in scores}
    for trial, values in scores.items():
        for seed, top1 in zip(SEEDS, values, strict=False):
            record = fake_record(
                method, seed, 50.0, protocol=protocol, teacher=teacher, chosen=points[trial] if trial else {}
            )
            if top1 is not None:
                best = {"epoch": 1, "top1": top1, "test_top1": 50.0}
                record["validation"] = {"images": 100, "top1": top1, "nll": 1.0, "best": best}
            cells[trial].append(record["cell"])
            write_cell(runs, record, failure="" if top1 is not None else "diverged")
    folder = runs / "digits-demo-v1" / "searches" / f"{method}-resnet8-study1-0123abcd"
    study = {
        "id": "0123abcd" * 8,
        "method": method,
        "method_version": 1,
        "pair": f"{teacher}>resnet8" if teacher else "resnet8",
        "teacher": teacher_id,
        "student": "resnet8",
        "used_on": [[each, "resnet8"] for each in (teacher_id, *used_on)],
        "protocol": protocol.identity(),
        "study": 1,
        "fixed": {},
        "space": dict.fromkeys(points[0], "0 to 10, linear"),
        "rules": {},
        "rungs": [2],
        "seeds": list(SEEDS),
        "rule": RULE,
        "points": [{"settings": point, "multiples": {}} for point in points[1:]],
        **changes,
    }
    _write(folder / "study.json", study)
    if ends:
        first = sorted(scores, key=lambda trial: (-(scores[trial][0] or -1), trial))
        best = first[:3]
        mean = {trial: sum(score or 0 for score in scores[trial]) / len(scores[trial]) for trial in best}
        last = sorted(best, key=lambda trial: -mean[trial])
        for step, order, num_seeds, taken in (("best", first, 1, best), ("chosen", last, 3, last[:1])):
            ranking = [
                {"trial": trial, "cells": cells[trial][:num_seeds], "top1": list(scores[trial][:num_seeds])}
                for trial in order
            ]
            values = {"rule": RULE, "epochs": 2, "ranking": ranking, "taken": taken}
            values |= {"settings": points[last[0]], "rules": {}} if step == "chosen" else {}
            _write(folder / f"{len(scores)}-trials-{step}.json", values)
    return folder


def write_compared(
    runs: Path, method: str, trial: int, *, teacher_id: str = "cell:abcdef0123", top1: float = 70.0
) -> None:
    """Write the runs of two seeds that train the settings of a trial on all images; trial 0 is the default."""
    for seed in (1, 2):
        settings = _settings(method, trial)
        chosen = {"chosen": settings} if trial else {"settings": settings}
        teacher = None if method == "ce" else "resnet20"
        write_cell(runs, fake_record(method, seed, top1 + seed, teacher=teacher, teacher_id=teacher_id, **chosen))


def write_cell(runs: Path, record: dict[str, Any], failure: str = "") -> Path:
    """Write a record where its cell has its place, or instead of it why the cell failed."""
    config = record["config"]
    pair = f"{config['teacher'].get('network', 'none')}-{config['student']}"
    place = runs / config["protocol"]["name"] / pair / record["method"] / f"seed{record['seed']}-{record['cell'][:8]}"
    place.mkdir(parents=True)
    more = {"id": record["cell"], "chosen": record["settings_chosen"]}
    (place / "config.toml").write_text(tomli_w.dumps(config | more))
    _write(
        place / ("failed.json" if failure else "record.json"), {"reason": failure, "text": ""} if failure else record
    )
    return place


def _settings(method: str, trial: int) -> dict[str, Any]:
    return {"label_smoothing": trial / 10} if method == "ce" else {"temperature": trial + 1.0}


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")
