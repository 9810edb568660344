"""Teachers of one network are told apart in every table and form."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from fake_records import fake_record, write_records
from test_comparison import ALONE, KD, split
from test_layouts import column
from test_records import begin

from kdbench.analysis import splitting
from kdbench.analysis.comparison import num_digits
from kdbench.analysis.records import read_records
from kdbench.analysis.tables.differences import dependence_notes
from kdbench.analysis.tables.layouts import detail, paper
from kdbench.analysis.tables.leaderboard import leaderboard, leaderboard_table
from kdbench.analysis.tables.render import render


def taught(seed: int = 1, weights: str = "a" * 64, accuracy: float = 80.0, **changes: Any) -> dict[str, Any]:
    record = fake_record("kd", seed, 70.0, **changes)
    record["teacher"] |= {"weights": weights, "accuracy": accuracy}
    return record


OF_A, OF_B = taught(), taught(2, "b" * 64)
"""Records of two teachers with one id, of the same recipe, and other weights."""
A, B = "resnet20 (weights aaaaaaaa)", "resnet20 (weights bbbbbbbb)"


def test_columns_of_two_teachers_have_two_names_in_every_form() -> None:
    (comparison,) = split(*ALONE, OF_A, OF_B)
    table = paper(comparison)
    assert table.columns[2:4] == [f"{A} > resnet8", f"{B} > resnet8"]
    for form in ("terminal", "markdown", "latex"):
        text = render([table], form)
        head = text[: text.index("Teacher")].replace(r"\\\scriptsize ", " ")
        assert head.count(A) == head.count(B) == 1, form
    lines = [line for line in render([table], "csv").splitlines() if not line.startswith("#")]
    (head, *_) = csv.reader(lines)
    assert len(set(head)) == len(head)
    assert {name.partition(" > ")[0] for name in head if "resnet20" in name} == {A, B}


def test_titles_and_notes_have_the_hash_of_the_weights() -> None:
    (comparison,) = split(*ALONE, OF_A, OF_B)
    assert [detail(comparison, pair).title for pair in comparison.pairs] == [
        f"digits-demo-v1: resnet20 (80.00 %, weights {letter * 8}) > resnet8" for letter in "ab"
    ]
    note = "teachers: resnet20 80.00 % (weights aaaaaaaa), resnet20 80.00 % (weights bbbbbbbb)"
    assert note in paper(comparison).notes
    assert note in leaderboard_table(leaderboard(comparison)).notes


@pytest.mark.parametrize(
    ("teachers", "labels"),
    [
        ([{}], {"resnet20"}),
        (
            [{"teacher_id": "file:1111"}, {"teacher_id": "file:2222"}],
            {"resnet20 (weights aaaaaaaa, id 1111)", "resnet20 (weights aaaaaaaa, id 2222)"},
        ),
        (
            [{}, {"weights": "b" * 64}, {"teacher_id": "file:2222", "weights": "b" * 64}],
            {A, "resnet20 (weights bbbbbbbb, id abcdef01)", "resnet20 (weights bbbbbbbb, id 2222)"},
        ),
        (
            [{"weights": "a" * 8 + "b"}, {"weights": "a" * 8 + "c"}],
            {"resnet20 (weights aaaaaaaab)", "resnet20 (weights aaaaaaaac)"},
        ),
        ([{}, {"teacher": "resnet56", "weights": "b" * 64}], {"resnet20", "resnet56"}),
    ],
)
def test_a_label_says_as_much_as_tells_teachers_apart(teachers: list[dict[str, str]], labels: set[str]) -> None:
    (comparison,) = split(*(taught(seed, **changes) for seed, changes in enumerate(teachers)))
    assert {pair.teacher_label for pair in comparison.pairs} == labels


def test_digits_of_hashes() -> None:
    assert num_digits([]) == 8
    assert num_digits(["a" * 64, "b" * 64, "a" * 64]) == 8
    assert num_digits(["a" * 63 + "b", "a" * 63 + "c"]) == 64


def test_an_unfinished_cell_is_of_the_teacher_that_records_know(tmp_path: Path) -> None:
    write_records(tmp_path, [*ALONE, *KD])
    begin(tmp_path / "begun", 1, student="resnet14")
    (comparison,) = splitting.split(read_records(tmp_path))
    assert {pair.name for pair in comparison.pairs} == {"resnet20 > resnet8", "resnet20 > resnet14"}
    assert {pair.teacher_accuracy for pair in comparison.pairs} == {80.0}


def test_an_unfinished_cell_may_be_of_another_teacher(tmp_path: Path) -> None:
    write_records(tmp_path, [*ALONE, *KD])
    begin(tmp_path / "begun", 1, teacher_id="cell:ffff0000")
    (comparison,) = splitting.split(read_records(tmp_path))
    assert {pair.teacher_label for pair in comparison.pairs} == {
        "resnet20 (weights wcell:ab)",
        "resnet20 (id ffff0000)",
    }


def test_records_that_disagree_on_their_teachers_accuracy_are_named() -> None:
    (comparison,) = split(taught(1), taught(2, accuracy=80.2), taught(3, accuracy=80.2), taught(4, student="resnet14"),
                          taught(5, accuracy=80.2, student="resnet14"))  # fmt: skip
    assert {pair.name for pair in comparison.pairs} == {"resnet20 > resnet8", "resnet20 > resnet14"}
    table = paper(comparison)
    for pair in comparison.pairs:
        entry = column(table, f"resnet20 {pair.student}")["Teacher"]
        assert entry.text == "80.20"
        assert entry.notes == ("records of the teacher disagree: 80.20 or 80.00 %",)
        assert "resnet20 (80.20 or 80.00 %, weights aaaaaaaa)" in detail(comparison, pair).title
    assert "teachers: resnet20 80.20 or 80.00 % (weights aaaaaaaa)" in table.notes


def test_networks_are_shared_by_role_not_by_name() -> None:
    """The teacher resnet14 and the student resnet14 are two networks, and so are two teachers resnet20."""
    (comparison,) = split(
        OF_A, taught(1, student="resnet14", weights="b" * 64), taught(1, teacher="resnet14", student="resnet32")
    )
    assert dependence_notes(comparison) == []
    (comparison,) = split(OF_A, OF_B)
    assert "pairs that share resnet8 are not independent" in dependence_notes(comparison)[0]


def test_a_teacher_no_better_than_its_student_is_named() -> None:
    (comparison,) = split(*ALONE, taught(accuracy=66.0), taught(1, student="resnet14", accuracy=66.0))
    note = "resnet20 > resnet8: the teacher (66.00 %) is not better than its student trained without it (66.00 %)"
    assert [line for line in paper(comparison).notes if "not better" in line] == [note]
    assert [note in detail(comparison, pair).notes for pair in comparison.pairs] == [
        pair.student == "resnet8" for pair in comparison.pairs
    ]
    (better,) = split(*ALONE, taught(accuracy=66.1))
    assert not any("not better" in line for line in paper(better).notes)
