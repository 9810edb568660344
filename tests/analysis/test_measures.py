"""Tables of balanced accuracy and macro F1 in place of top-1, and two cells compared image by image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import Typed
from fake_records import fake_record, write_records
from scipy.stats import chi2
from sklearn.metrics import accuracy_score

from kdbench.analysis.stats.predictions import Contingency
from kdbench.experiment.predictions import Predictions, write_predictions
from kdbench.experiment.record_checks import sealed

MACRO_F1 = {"ce": [60.0, 61.0], "kd": [66.0, 65.0], "dkd": [62.0, 62.5]}
"""By method, of two seeds; their order differs from that of top-1."""
TOP1 = {"ce": [70.0, 71.0], "kd": [72.0, 72.0], "dkd": [75.0, 76.0]}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Records with all measures, and one of an earlier version."""
    records = [
        fake_record(
            method,
            seed,
            top1,
            teacher=None if method == "ce" else "resnet20",
            macro_f1=MACRO_F1[method][seed],
            balanced_accuracy=top1 - 5,
        )
        for method, values in TOP1.items()
        for seed, top1 in enumerate(values)
    ]
    write_records(tmp_path / "runs", [*records, fake_record("crd", 0, 80.0)])
    return Path("runs")


@pytest.mark.parametrize(
    ("measure", "name", "mean"),
    [("macro-f1", "macro F1", "65.50"), ("balanced-accuracy", "balanced accuracy", "67.00")],
)
def test_another_measure_is_compared_in_place_of_top1(
    measure: str, name: str, mean: str, runs: Path, typed: Typed
) -> None:
    for command in (["table"], ["table", "--layout", "paper"], ["leaderboard"], ["compare"]):
        code, out, err = typed(*command, runs, "--measure", measure)
        assert code == 0, err
        assert name in out
        assert "left out: 1 record without" in err
        assert "crd" not in out
        if command != ["compare"]:
            (line,) = [line for line in out.splitlines() if " kd  " in f" {line}"]  # of the table, not of its notes
            assert mean in line
            assert f"{name} on the test set of digits in % after the last of" in out
            assert "accuracies of teachers are top-1" in out
        else:
            assert f"difference: of {name} in percentage points" in out


def test_methods_are_ranked_by_what_is_reported(runs: Path, typed: Typed) -> None:
    by_top1 = typed("leaderboard", runs, "--format", "csv", "--methods", "ce,kd,dkd")[1].splitlines()
    by_f1 = typed("leaderboard", runs, "--format", "csv", "--measure", "macro-f1")[1].splitlines()
    assert [line.split(",")[2] for line in by_top1[1:4]] == ["dkd", "kd", "ce"]
    assert [line.split(",")[2] for line in by_f1[1:4]] == ["kd", "dkd", "ce"]
    assert "macro F1 %" in by_f1[0]
    assert "order of methods by macro F1 and by top-1: Kendall's tau" in by_f1[1]


def test_what_cannot_be_compared_is_said(runs: Path, typed: Typed, tmp_path: Path) -> None:
    code, _, err = typed("table", runs, "--measure", "macro-f1", "--epoch", "best")
    assert (code, "leave --epoch or --measure out" in err) == (2, True)
    code, _, err = typed("table", runs, "--measure", "macro-f1", "--published", "cifar100", "--layout", "paper")
    assert (code, "published values are top-1" in err) == (2, True)
    write_records(tmp_path / "earlier", [fake_record("kd", 0, 80.0)])
    code, _, err = typed("compare", "earlier", "--measure", "balanced-accuracy")
    assert (code, "1 record without balanced accuracy" in err) == (2, True)


def drawn(seed: int, labels: Any) -> Predictions:
    """Predictions of a network that is right about 80 times of 100."""
    draw = np.random.default_rng(seed)
    predicted = np.where(draw.random(len(labels)) < 0.8, labels, draw.integers(4, size=len(labels)))
    return Predictions(labels=labels, predicted=predicted, logits=np.eye(4, dtype=np.float16)[predicted])


def test_a_contingency_by_hand_and_by_chi_squared() -> None:
    labels = np.zeros(30, dtype=np.int64)
    first, second = labels.copy(), labels.copy()
    first[:9] = 1  # only the second is right
    second[9:10] = 2  # only the first is right
    first[10:13], second[10:12], second[12] = 3, 3, 1  # both are wrong, two of three alike
    logits = np.zeros((30, 4), dtype=np.float16)
    images = Contingency.of(*(Predictions(labels=labels, predicted=each, logits=logits) for each in (first, second)))
    assert images == Contingency(both_right=17, only_first=1, only_second=9, both_wrong=3, same_wrong=2)
    assert images.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert images.agreement == pytest.approx(19 / 30)
    assert images.error_overlap == pytest.approx(3 / 13)
    assert images.same_errors == pytest.approx(2 / 3)
    many = Contingency(both_right=30_000, only_first=5_100, only_second=4_900, both_wrong=10_000, same_wrong=0)
    assert many.p == pytest.approx(chi2.sf((abs(5_100 - 4_900) - 1) ** 2 / 10_000, 1), rel=1e-3)
    assert Contingency(both_right=5, only_first=0, only_second=0, both_wrong=0, same_wrong=0).p == 1


def write_cell(folder: Path, method: str, predictions: Predictions | None) -> None:
    """Write a record, and the predictions that it is of."""
    folder.mkdir()
    labels = predictions.labels if predictions else np.zeros(1, dtype=np.int64)
    top1 = 100 * accuracy_score(labels, predictions.predicted) if predictions else 50.0
    changes = {"predictions": write_predictions(folder, predictions)} if predictions else {}
    record = sealed(fake_record(method, 3, top1, macro_f1=55.0, balanced_accuracy=56.0, **changes))
    (folder / "record.json").write_text(json.dumps(record))


def test_two_cells_are_compared_image_by_image(typed: Typed, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(4, size=500)
    first, second = drawn(1, labels), drawn(2, labels)
    for name, predictions in (("kd", first), ("dkd", second)):
        write_cell(tmp_path / name, name, predictions)
    code, out, err = typed("compare", "kd", "dkd")
    assert (code, err) == (0, "")
    assert "A: kd resnet20 > resnet8 seed 3; B: dkd resnet20 > resnet8 seed 3" in out
    one, other = first.predicted == labels, second.predicted == labels
    (line,) = [line for line in out.splitlines() if line.startswith("500 ")]
    counts = (one & other).sum(), (one & ~other).sum(), (other & ~one).sum(), (~one & ~other).sum()
    agreement = f"{100 * (first.predicted == second.predicted).mean():.2f}"
    assert line.split()[1:6] == [*map(str, counts), agreement]
    (top1,) = [line for line in out.splitlines() if line.startswith("top-1 %")]
    assert top1.split()[2:] == [f"{100 * one.mean():.2f}", f"{100 * other.mean():.2f}",
                                f"{100 * (one.mean() - other.mean()):+.2f}"]  # fmt: skip
    code, out, _ = typed("compare", "kd", "kd", "--format", "csv")
    assert (code, "(kd)" in out) == (0, True)


def test_two_cells_that_cannot_be_compared(typed: Typed, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(4, size=50)
    write_cell(tmp_path / "kd", "kd", drawn(1, labels))
    write_cell(tmp_path / "others", "dkd", drawn(2, labels[::-1]))
    write_cell(tmp_path / "off", "dkd", None)
    write_cell(tmp_path / "damaged", "dkd", drawn(2, labels))
    shutil.copy(tmp_path / "kd" / "predictions.npz", tmp_path / "damaged")
    for words, message in {
        ("compare", "kd", "others"): "kd and others cannot be compared: the two have different test images",
        ("compare", "kd", "off"): "off has no predictions.npz: the cell was run with --no-predictions",
        ("compare", "damaged", "kd"): "damaged/predictions.npz is not the one that the record beside it",
        ("compare", "kd", "nowhere"): "nowhere is not the folder of a finished cell",
        ("compare", "kd", "off", "--margin", "1", "--methods", "kd"): "--margin, --methods: not for two cells",
    }.items():
        code, out, err = typed(*words)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
