"""The part of a report on classes: accuracies by class, confusion matrices, and why there are none."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_records import fake_record
from report_pages import report
from sklearn.metrics import confusion_matrix

from kdbench.analysis.plots import answers
from kdbench.experiment.predictions import Predictions, read_predictions, write_predictions
from kdbench.experiment.record_checks import sealed

pytestmark = pytest.mark.usefixtures("quick")


def write_cell(folder: Path, method: str, seed: int, labels: Any, predicted: Any, num_classes: int) -> None:
    """Write a record with its counts, and its predictions."""
    logits = np.eye(num_classes, dtype=np.float16)[predicted]
    digest = write_predictions(folder, Predictions(labels=labels, predicted=predicted, logits=logits))
    counts = {
        "correct": np.bincount(labels[labels == predicted], minlength=num_classes).tolist(),
        "images": np.bincount(labels, minlength=num_classes).tolist(),
    }
    top1 = 100 * float((labels == predicted).mean())
    record = fake_record(
        method, seed, top1, teacher=None if method == "ce" else "resnet20", per_class=counts, predictions=digest
    )
    (folder / "record.json").write_text(json.dumps(sealed(record)))


def cells(page: str, ident: str) -> list[list[str]]:
    """Return the texts of a table's body."""
    (table,) = re.findall(rf'<table id="{ident}".*?</table>', page, re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", table.partition("</thead>")[2], re.DOTALL)
    return [[html.unescape(text) for text in re.findall(r">([^<]*)</t[hd]>", row)] for row in rows]


def test_accuracies_and_confusion_of_few_classes(tmp_path: Path) -> None:
    draw = np.random.default_rng(6)
    labels = draw.integers(3, size=200)
    predicted: dict[str, list[Any]] = {}
    for method, noise in (("ce", 0.4), ("kd", 0.2)):
        for seed in (1, 2):
            guesses = np.where(draw.random(200) < noise, draw.integers(3, size=200), labels)
            predicted.setdefault(method, []).append(guesses)
            write_cell(tmp_path / "runs" / f"{method}{seed}", method, seed, labels, guesses, 3)
    page = report(tmp_path / "runs", tmp_path / "out").text
    rows = cells(page, "c1-classes-1")
    for number, row in enumerate(rows):
        means = [np.mean([(each[labels == number] == number).mean() for each in predicted[m]]) for m in ("ce", "kd")]
        assert row == [str(number), *(f"{100 * mean:.1f}" for mean in means)]
    matrix = sum(confusion_matrix(labels, each, normalize="true") for each in predicted["kd"]) / 2
    assert cells(page, "c1-classes-1-confusion-2") == [
        [str(number), *(f"{100 * share:.1f}" for share in row)] for number, row in enumerate(matrix)
    ]
    assert "Confusion matrix of kd" in page
    assert '"per_class' not in page


def test_predictions_of_few_classes_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, folders = np.arange(30) % 3, list[Path]()

    def read(folder: Path) -> Predictions | None:
        folders.append(folder)
        return read_predictions(folder)

    for method in ("ce", "kd"):
        write_cell(tmp_path / "runs" / method, method, 1, labels, labels, 3)
    monkeypatch.setattr(answers, "read_predictions", read)
    report(tmp_path / "runs", tmp_path / "out")
    assert sorted(folders) == [tmp_path / "runs" / method for method in ("ce", "kd")]


def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    labels = np.arange(30) % 3
    for seed in (1, 2):
        write_cell(tmp_path / "runs" / str(seed), "ce", seed, labels, labels, 3)
    (tmp_path / "runs" / "1" / "predictions.npz").write_bytes(b"x")
    page = report(tmp_path / "runs", tmp_path / "out").text
    assert "1 file is damaged and left out" in page
    assert "predictions.npz is damaged (not an .npz file, or only the beginning of one)" in page
    assert cells(page, "c1-classes-1-confusion-1") == [
        ["0", "100.0", "0.0", "0.0"],
        ["1", "0.0", "100.0", "0.0"],
        ["2", "0.0", "0.0", "100.0"],
    ]


def test_why_there_are_none(tmp_path: Path) -> None:
    labels = np.arange(42) % 21
    write_cell(tmp_path / "many" / "1", "ce", 1, labels, labels, 21)
    assert "21 classes, and at most 20 are shown" in report(tmp_path / "many", tmp_path / "out").text
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "record.json").write_text(json.dumps(fake_record("ce", 1, 70.0)))
    assert "No record holds accuracies by class" in report(tmp_path / "none", tmp_path / "out").text
