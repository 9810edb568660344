"""What plots take from predictions, against the harness's own measures and other libraries."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from plotted_runs import LABELS, NUM_CLASSES, plotted_records, predictions, write_plotted_runs

from kdbench.analysis.comparison import Comparison
from kdbench.analysis.plots.answers import answers_of, correlation, read_answers
from kdbench.analysis.plots.pictures import Material
from kdbench.analysis.plots.predicted import calibration_error, class_gains
from kdbench.analysis.records import read_records
from kdbench.analysis.splitting import split
from kdbench.experiment.predictions import Predictions
from kdbench.models.evaluate import confidence_gaps, evaluate


def test_the_bins_are_those_of_the_error_in_records() -> None:
    made = predictions(1)
    logits, targets = torch.from_numpy(made.logits.astype(np.float64)), torch.from_numpy(made.labels)
    answers = answers_of(made)
    assert answers.counts.sum() == len(LABELS)
    gaps = confidence_gaps(logits.softmax(dim=1), targets).numpy()
    assert answers.correct - answers.confidences == pytest.approx(gaps, abs=1e-5)
    assert calibration_error(answers) == pytest.approx(evaluate(logits, targets)["ece"], abs=1e-4)


def test_accuracy_by_class_is_counted_with_the_predicted_classes() -> None:
    """Not with the rounded logits; a class without images is unknown."""
    logits = np.zeros((4, 3), dtype=np.float16)
    made = Predictions(labels=np.array([0, 0, 1, 1]), predicted=np.array([0, 2, 1, 1]), logits=logits)
    assert answers_of(made).class_accuracy.tolist()[:2] == [50.0, 100.0]
    assert np.isnan(answers_of(made).class_accuracy[2])


def test_correlations_are_those_of_numpy() -> None:
    made = predictions(2)
    expected = np.corrcoef(made.logits.astype(np.float64), rowvar=False)
    assert correlation(made) == pytest.approx(expected, abs=1e-5)


def test_a_constant_logit_has_no_correlation() -> None:
    logits = predictions(2).logits.copy()
    logits[:, 3] = 1
    matrix = correlation(dataclasses.replace(predictions(2), logits=logits))
    assert np.isnan(matrix[3]).all()
    assert np.isfinite(np.delete(np.delete(matrix, 3, 0), 3, 1)).all()


def comparison_of(runs: Path) -> tuple[Comparison, Material]:
    records = read_records(runs)
    (comparison,) = split(records)
    return comparison, Material.of(comparison, records.frame)


def test_differences_are_to_the_teachers_own_cell_and_averaged_over_seeds(tmp_path: Path) -> None:
    write_plotted_runs(tmp_path)
    comparison, material = comparison_of(tmp_path)
    answers = material.answers(comparison.pairs[0])
    teacher = np.corrcoef(predictions(8, strength=3).logits.astype(float), rowvar=False)
    seeds = [np.corrcoef(predictions(n, strength=1 + n % 3).logits.astype(float), rowvar=False) for n in (2, 3)]
    expected = np.mean([np.abs(matrix - teacher) for matrix in seeds], axis=0)
    assert answers.differences[comparison.find("kd")] == pytest.approx(expected, abs=1e-5)
    assert not answers.no_teacher


def test_gains_by_class_are_paired_by_seed(tmp_path: Path) -> None:
    """Seed 3 of the method has no partner, and does not count."""
    made = [record for record in plotted_records(3) if (record["method"], record["seed"]) != ("ce", 3)]
    write_plotted_runs(tmp_path, made)
    comparison, material = comparison_of(tmp_path)
    answers = material.answers(comparison.pairs[0])
    baseline = comparison.find("ce")
    gains = class_gains(answers, comparison.find("kd"), baseline)
    assert gains is not None
    assert len(answers.by_row[comparison.find("kd")]) == 3
    kd, ce = ([predictions(n, strength=1 + n % 3) for n in places] for places in ((2, 3), (0, 1)))

    def accuracy(made: Predictions) -> list[float]:
        right = made.predicted == made.labels
        return [100 * right[made.labels == label].mean() for label in range(NUM_CLASSES)]

    expected = np.mean([np.subtract(accuracy(k), accuracy(b)) for k, b in zip(kd, ce, strict=True)], axis=0)
    assert gains[0] == pytest.approx(expected)
    assert gains[1] == 2


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    folders = write_plotted_runs(tmp_path)
    (folders[0] / "predictions.npz").unlink()
    (folders[1] / "predictions.npz").write_bytes(b"PK\x03\x04")
    comparison, material = comparison_of(tmp_path)
    answers = read_answers(comparison, comparison.pairs[0], None)
    assert answers.missing == (folders[0] / "predictions.npz",)
    assert len(answers.problems) == 1
    assert str(folders[1] / "predictions.npz") in answers.problems[0]
    assert "resnet20" in answers.no_teacher
    assert comparison.find("ce") not in answers.by_row
    (folders[-1] / "predictions.npz").unlink()
    assert str(folders[-1] / "predictions.npz") in material.answers(comparison.pairs[0]).no_teacher


def test_other_test_images_are_not_compared() -> None:
    other = dataclasses.replace(predictions(3), labels=LABELS[::-1].copy())
    assert answers_of(predictions(3)).test_set != answers_of(other).test_set


@pytest.mark.parametrize(
    ("teacher", "reason"),
    [("resnet20+wrn_16_2", "is an ensemble, of which no predictions"), ("logits:clip", "had no test_logits: add them")],
)
def test_why_teachers_that_are_no_network_have_no_predictions(teacher: str, reason: str, tmp_path: Path) -> None:
    write_plotted_runs(tmp_path)
    comparison, _ = comparison_of(tmp_path)
    pair = dataclasses.replace(comparison.pairs[0], teacher=teacher, teacher_label=teacher)
    assert f"the {'file of the ' * (':' in teacher)}teacher {teacher} {reason}" in (
        read_answers(comparison, pair, tmp_path).no_teacher
    )
