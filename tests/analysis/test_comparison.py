"""What may stand in one table, and what may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from fake_records import fake_grid, fake_record, write_records
from test_records import begin

from kdbench.analysis import splitting
from kdbench.analysis.comparison import Comparison
from kdbench.analysis.records import Records, as_frame, read_records
from kdbench.analysis.tables.latex import escape
from kdbench.analysis.tables.layouts import paper
from kdbench.analysis.tables.notes import provenance
from kdbench.analysis.tables.render import Format, render
from kdbench.experiment.protocol import load_protocol

DIGITS = load_protocol("digits-demo-v1")
ALONE = [fake_record("ce", seed, 65.0 + seed, teacher=None) for seed in range(3)]
KD = [fake_record("kd", seed, 70.0 + seed) for seed in range(3)]


def split(*records: dict[str, Any]) -> list[Comparison]:
    return splitting.split(Records(as_frame(records), [], []))


def labels(comparison: Comparison) -> list[str]:
    return [row.label for row in comparison.rows]


def test_the_student_only_baseline_stands_in_the_pairs_of_all_its_teachers() -> None:
    other = [fake_record("kd", seed, 71.0, teacher="resnet56", teacher_id="file:1") for seed in range(3)]
    (found,) = split(*ALONE, *KD, *other)
    assert [pair.name for pair in found.pairs] == ["resnet20 > resnet8", "resnet56 > resnet8"]
    assert found.student_only is not None
    assert found.student_only.label == "ce"
    for pair in found.pairs:
        assert found.results[found.student_only, pair].values() == {0: 65.0, 1: 66.0, 2: 67.0}


def test_a_method_that_distils_without_a_teacher_is_no_student_only_baseline() -> None:
    made_up = [fake_record("tfreg", seed, 70.0, teacher=None) | {"family": "logits"} for seed in range(3)]
    (found,) = split(*made_up, *KD)
    assert found.student_only is None
    (found,) = split(*made_up, *KD, *ALONE)
    assert found.student_only is not None
    assert found.student_only.label == "ce"
    assert sorted(labels(found)) == ["ce", "kd", "tfreg"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": DIGITS.override(epochs=3)}, "with epochs=3"),
        ({"protocol": DIGITS.override(precision="bf16")}, "with precision=bf16"),
        ({"protocol": DIGITS.override(dataset="npz:0123")}, "with dataset=npz:0123"),
        ({"protocol": DIGITS.override(version=9)}, "version=9"),
        ({"protocol": DIGITS.override(learning_rate=0.7, flip=True), "overrides": {}}, "flip=True learning_rate=0.7"),
        ({"data_fingerprint": "e" * 64}, "data eeeeeeee"),
        ({"epoch_rule": "best on validation"}, "epoch best on "),
    ],
)
def test_records_under_other_rules_are_a_comparison_of_their_own(changes: dict[str, Any], words: str) -> None:
    found = split(*ALONE, *KD, *(fake_record("kd", seed + 10, 60.0, **changes) for seed in range(2)))
    assert len(found) == 2
    assert len({one.title for one in found}) == 2
    (other,) = [one for one in found if words in one.title]
    assert labels(other) == ["kd"]
    (result,) = other.results.values()
    assert result.values() == {10: 60.0, 11: 60.0}


def test_own_data_are_named_as_their_user_called_them_beside_their_hash() -> None:
    rules = {"protocol": DIGITS.override(dataset="npz:0123")}
    records = [fake_record("kd", seed, 60.0, **rules, data_name=name) for seed, name in
               enumerate(("npz:pets_<b>&%.npz", "npz:a.npz", "npz:a.npz"))]  # fmt: skip
    (comparison,) = split(*records, fake_record("kd", 7, 60.0, **rules))
    name = "npz:0123 (a.npz or pets_<b>&%.npz)"
    assert comparison.title == f"digits-demo-v1, with dataset={name}"
    assert comparison.dataset == name
    assert comparison.rules["dataset"] == "npz:0123"
    table = paper(comparison)
    texts = {form: render([table], form) for form in get_args(Format)}
    for form in ("terminal", "csv"):
        assert f"dataset={name}" in texts[form]
    assert escape(comparison.title) in texts["latex"]
    assert "0123 (a.npz or pets" in texts["markdown"]
    assert "<b>" not in texts["markdown"]
    (known,) = split(*(fake_record("kd", seed, 60.0, data_name="digits") for seed in range(2)))
    assert (known.title, known.dataset) == ("digits-demo-v1", "digits")


@pytest.mark.parametrize(
    ("teacher", "names"),
    [
        (
            {"teacher_id": "cell:ffff0000"},
            {"resnet20 (weights wcell:ab) > resnet8", "resnet20 (weights wcell:ff) > resnet8"},
        ),
        (
            {"weights": "another"},
            {"resnet20 (weights wcell:ab) > resnet8", "resnet20 (weights another) > resnet8"},
        ),
    ],
)
def test_teachers_with_other_weights_are_pairs_of_their_own(teacher: dict[str, str], names: set[str]) -> None:
    record = fake_record("kd", 7, 60.0, teacher_id=teacher.get("teacher_id", "cell:abcdef0123"))
    record["teacher"] |= {key: value for key, value in teacher.items() if key == "weights"}
    (found,) = split(*ALONE, *KD, record)
    assert {pair.name for pair in found.pairs} == names
    assert sorted(len(found.results[found.find("kd"), pair].frame) for pair in found.pairs) == [1, 3]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"chosen": {"temperature": 2.0}}, {"ce", "kd", "kd temperature=2.0"}),
        ({"version": 2}, {"ce", "kd (version 1)", "kd (version 2)"}),
        ({"views": 4}, {"ce", "kd (1 view)", "kd (4 views)"}),
        ({"settings": {"weight": 3.0}}, {"ce", "kd weight=None", "kd weight=3.0"}),
        ({"method_source": "file kd.py sha256:0a1b2c3d"}, {"ce", "kd (code unknown)", "kd (code 0a1b2c3d)"}),
    ],
)
def test_what_a_method_was_run_with_makes_a_row(changes: dict[str, Any], expected: set[str]) -> None:
    (found,) = split(*ALONE, *KD, fake_record("kd", 7, 75.0, **changes))
    assert set(labels(found)) == expected


def test_code_of_an_own_method_makes_a_row_and_a_note() -> None:
    def source(seed: int, text: str, top1: float) -> dict[str, Any]:
        return fake_record("mine", seed, top1, method_source=text)

    first, other = "file mine.py sha256:aaaaaaaa", "file mine.py sha256:bbbbbbbb"
    (found,) = split(*ALONE, source(0, first, 70.0), source(1, first, 72.0), source(2, other, 90.0))
    assert labels(found) == ["ce", "mine (code aaaaaaaa)", "mine (code bbbbbbbb)"]
    (pair,) = found.pairs
    assert found.results[found.find("mine (code aaaaaaaa)"), pair].values() == {0: 70.0, 1: 72.0}
    note = "rows of their own for records of mine whose code differs under one VERSION"
    assert note in provenance(found)
    (found,) = split(*ALONE, *(source(seed, first, 70.0) for seed in range(3)))
    assert labels(found) == ["ce", "mine"]
    assert note not in provenance(found)
    bases = [
        fake_record("dot", seed, 70.0, settings={"base": name}, base_source=text)
        for seed, (name, text) in enumerate([("mine", first), ("other", other)])
    ]
    assert not any("whose code differs" in each for each in provenance(split(*ALONE, *bases)[0]))
    releases = [fake_record("kd", seed, 70.0, method_source=f"kdbench 0.{seed}.0") for seed in range(3)]
    assert labels(split(*ALONE, *releases)[0]) == ["ce", "kd"]


def test_published_settings_may_differ_between_pairs() -> None:
    own = fake_record("dkd", 1, 70.0, settings={"beta": 2.0})
    other = fake_record("dkd", 1, 70.0, settings={"beta": 8.0}, student="resnet14")
    (found,) = split(own, other)
    assert labels(found) == ["dkd"]
    assert found.student_only is None


def test_teachers_are_no_students() -> None:
    teacher = fake_record("ce", 0, 80.0, teacher=None, student="resnet20")
    taught = [fake_record("kd", seed, 70.0, teacher_id=f"cell:{teacher['cell']}") for seed in range(2)]
    (found,) = split(teacher, *taught, *ALONE)
    assert [pair.name for pair in found.pairs] == ["resnet20 > resnet8"]
    assert not any(teacher["cell"] in set(result.frame["cell"]) for result in found.results.values())
    (alone,) = split(teacher)
    assert [pair.name for pair in alone.pairs] == ["resnet20, student only"]


def test_a_row_is_complete_with_all_seeds_of_all_pairs() -> None:
    (found,) = split(*ALONE, *KD, *(fake_record("dkd", seed, 70.0) for seed in range(2)))
    assert found.complete(found.find("kd"))
    assert not found.complete(found.find("dkd"))


def test_cells_that_are_not_finished_have_their_place(tmp_path: Path) -> None:
    write_records(tmp_path, [*ALONE, *KD])
    begin(tmp_path / "a", 3, "diverged")
    begin(tmp_path / "b", 0, chosen={"temperature": 2.0})
    begin(tmp_path / "c", 0, teacher="resnet56", teacher_id="file:1")
    begin(tmp_path / "d", 0, protocol=DIGITS.override(epochs=3))
    (found,) = splitting.split(read_records(tmp_path))
    pair, other = found.pairs
    assert [cell.config["seed"] for cell in found.results[found.find("kd"), pair].unfinished] == [3]
    assert not found.complete(found.find("kd"))
    waiting = found.results[found.find("kd temperature=2.0"), pair]
    assert (len(waiting.frame), len(waiting.unfinished)) == (0, 1)
    assert other.name == "resnet56 > resnet8"
    assert found.results[found.find("kd"), other].frame.empty


def test_pairs_stand_in_the_order_of_papers() -> None:
    pairs = ["vgg13>vgg8", "resnet56>resnet20", "wrn_40_2>wrn_16_2"]
    (found,) = split(*fake_grid(pairs, {"kd": 1.0}, 1))
    assert [pair.student for pair in found.pairs] == ["wrn_16_2", "resnet20", "vgg8"]
