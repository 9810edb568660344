"""Accuracies that cannot be told from guessing are named below tables, where the test set is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_records import fake_record
from test_comparison import split

from kdbench.analysis.records import as_frame
from kdbench.analysis.tables.differences import against, by_pair, choose_baseline
from kdbench.analysis.tables.layouts import detail, paper
from kdbench.analysis.tables.leaderboard import leaderboard, leaderboard_table
from kdbench.analysis.tables.table import Table
from kdbench.data.datasets import SHAPES, load_dataset
from kdbench.experiment.protocol import load_protocol
from kdbench.experiment.record_checks import check_record
from kdbench.experiment.test_sets import TEST_SETS
from kdbench.utils.guessing import is_guess

METHODS = (("ce", None), ("kd", "resnet20"), ("dkd", "resnet20"))
NOTE = "no better than guessing the largest class"
OWN_DATA = {"protocol": load_protocol("digits-demo-v1").override(dataset="npz:0123456789abcdef")}


def tables(*accuracies: float, teacher_accuracy: float = 80.0, **changes: Any) -> list[Table]:
    """Every table of a student alone, of kd and of dkd, with such accuracies in each of two seeds."""
    records = [
        fake_record(method, seed, top1, teacher=teacher, teacher_accuracy=teacher_accuracy, **changes)
        for (method, teacher), top1 in zip(METHODS, accuracies, strict=True)
        for seed in (1, 2)
    ]
    (comparison,) = split(*records)
    base = choose_baseline(comparison, None)
    board = leaderboard_table(leaderboard(comparison, "last"), [])
    compared = by_pair(comparison, base, against(comparison, base, "last", 0.2, by_teacher=False), "last")
    return [detail(comparison, comparison.pairs[0]), paper(comparison), board, compared]


def notes(*accuracies: float, **keywords: Any) -> set[str]:
    """The notes about guessing, which all tables share."""
    first, *others = ({note for note in table.notes if NOTE in note} for table in tables(*accuracies, **keywords))
    assert all(other == first for other in others)
    return first


def test_a_student_and_methods_at_chance_are_named() -> None:
    begin = f"{NOTE} (10.00 % of 500 test images)"
    assert notes(70.0, 71.0, 72.0) == set()
    assert notes(70.0, 10.0, 72.0) == {f"{begin}: kd on resnet20 > resnet8"}
    assert notes(13.6, 9.0, 0.0) == {f"{begin}: ce, dkd, kd on resnet20 > resnet8"}
    assert notes(70.0, 71.0, 72.0, teacher_accuracy=11.0) == {f"{begin}: the teacher resnet20 (11.00 %)"}


def test_one_run_above_chance_is_enough() -> None:
    records = [fake_record("kd", seed, top1) for seed, top1 in ((1, 10.0), (2, 70.0))]
    (comparison,) = split(*records)
    assert not [note for note in paper(comparison).notes if NOTE in note]


def test_of_an_unknown_test_set_nothing_is_said() -> None:
    assert notes(10.0, 10.0, 10.0, **OWN_DATA) == set()
    found = notes(50.0, 70.0, 72.0, **OWN_DATA, test_set={"images": 100, "largest_class": 50})
    assert found == {f"{NOTE} (50.00 % of 100 test images): ce on resnet20 > resnet8"}


def test_records_hold_what_is_known_by_name(tmp_path: Path) -> None:
    digits = load_dataset("digits", tmp_path)
    counts = digits.test_labels.bincount()
    assert TEST_SETS["digits"] == (len(digits.test_labels), counts.max()) == (500, 50)
    assert TEST_SETS.keys() == SHAPES.keys()
    for name, (images, largest) in TEST_SETS.items():
        assert (images / largest == SHAPES[name].num_classes) == (name != "svhn")
    row = as_frame([fake_record("kd", 1, 70.0)]).iloc[0]
    assert (row["test_images"], row["largest_class"]) == (500, 50)


@pytest.mark.parametrize("test_set", [{"images": 0, "largest_class": 0}, {"images": 10, "largest_class": 11}])
def test_impossible_sizes_are_damage(test_set: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is damaged: "):
        check_record(fake_record("kd", 1, 70.0, test_set=test_set))
    check_record(fake_record("kd", 1, 70.0, test_set={"images": 10, "largest_class": 10}))


@pytest.mark.parametrize(
    ("top1", "images", "largest", "expected"),
    [(0.0, 500, 50, True), (10.0, 500, 50, True), (16.0, 500, 50, False), (100.0, 3, 1, True), (90.0, 100, 90, True)],
)
def test_the_bound(top1: float, images: int, largest: int, expected: bool) -> None:
    """Of 500 images with p = 0.1, 80 or more are right with probability 2e-5; 3 of 3 with p = 1/3 with 0.04."""
    assert is_guess(top1, images, largest) == expected
