"""Filters narrow the comparisons that have what they name, and leave the others out with a remark."""

from __future__ import annotations

import pytest
from fake_records import fake_grid, fake_record

from kdbench.analysis.comparison import Comparison
from kdbench.analysis.records import Records, as_frame
from kdbench.analysis.selection import Filters, select
from kdbench.analysis.splitting import split
from kdbench.errors import UserError
from kdbench.experiment.protocol import load_protocol

DIGITS = load_protocol("digits-demo-v1")
SHORT = DIGITS.override(epochs=2)
TITLES = ["digits-demo-v1", "digits-demo-v1, with epochs=2"]


def comparisons() -> list[Comparison]:
    """Records of three methods under the rules of the demo, and a single one for two epochs."""
    records = [fake_record(method, seed, 80.0 + seed) for method in ("kd", "dkd") for seed in (1, 2)]
    records += [fake_record("ce", seed, 79.0, teacher=None) for seed in (1, 2)]
    records.append(fake_record("ce", 1, 50.0, teacher=None, protocol=SHORT))
    found = split(Records(as_frame(records), [], []))
    assert [comparison.title for comparison in found] == TITLES
    return found


def labels(comparison: Comparison) -> list[str]:
    return [row.label for row in comparison.rows]


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        (Filters(methods=["kd"]), "row kd"),
        (Filters(methods=["KD", "DKD"]), "row KD or DKD"),
        (Filters(pairs=["resnet20>resnet8"]), "pair resnet20>resnet8"),
        (Filters(pairs=["ResNet20 > resnet8"]), "pair ResNet20 > resnet8"),
        (Filters(baselines=["kd"]), "row kd"),
        (Filters(rules=["epochs=12"]), "rule epochs=12"),
    ],
)
def test_a_comparison_without_it_is_left_out_in_one_line(filters: Filters, reason: str) -> None:
    (left,), remarks = select(comparisons(), filters)
    assert left.title == TITLES[0]
    assert remarks == [f"left out: {TITLES[1]} (no {reason})"]


@pytest.mark.parametrize(
    ("filters", "title"),
    [
        (Filters(rules=["epochs=2"]), TITLES[1]),
        (Filters(rules=["epochs=2", "dataset=digits"]), TITLES[1]),
        (Filters(rules=["epochs=2.0"]), TITLES[1]),
        (Filters(protocols=[TITLES[1]]), TITLES[1]),
        (Filters(rules=["epochs=12"], protocols=["Digits demo v1"]), TITLES[0]),
    ],
)
def test_rules_and_printed_titles_select(filters: Filters, title: str) -> None:
    (left,), _ = select(comparisons(), filters)
    assert left.title == title


def test_values_of_one_rule_are_alternatives() -> None:
    both, remarks = select(comparisons(), Filters(rules=["epochs=2", "epochs=12"], protocols=["digits-demo-v1"]))
    assert [comparison.title for comparison in both] == TITLES
    assert len(remarks) == 1


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (Filters(methods=["dk"]), "unknown row 'dk': did you mean dkd.*the rows are ce, dkd, kd"),
        (Filters(methods=["kd", "crd"]), "unknown row 'crd'"),
        (Filters(pairs=["a>b"]), "unknown pair 'a>b'.*resnet20 > resnet8"),
        (
            Filters(pairs=["crd-same-family"]),
            "no record is of a pair of crd-same-family: the pairs are resnet20 > resnet8, ",
        ),
        (Filters(baselines=["crd"]), "unknown row 'crd'"),
        (Filters(rules=["epochs=3"]), "the rules are epochs=12, epochs=2"),
        (Filters(rules=["epoch=2"]), "unknown rule 'epoch=2': did you mean epoch"),
        (Filters(rules=["epochs"]), "KEY=VALUE"),
        (Filters(rules=["epochs=" + "9" * 5000]), "unknown rule"),
        (
            Filters(protocols=["cifar100-crd-v1"]),
            "no records under cifar100-crd-v1: there are records under digits-demo-v1; digits-demo-v1, with",
        ),
    ],
)
def test_what_no_comparison_has_is_an_error(filters: Filters, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(comparisons(), filters)


def test_a_name_that_only_some_have_is_remarked() -> None:
    records = [fake_record(method, 1, 80.0) for method in ("kd", "dkd")]
    records.append(fake_record("kd", 1, 50.0, protocol=SHORT))
    both, remarks = select(split(Records(as_frame(records), [], [])), Filters(methods=["kd", "dkd"]))
    assert [labels(comparison) for comparison in both] == [["dkd", "kd"], ["kd"]]
    assert remarks == [f"{TITLES[1]} has no row dkd"]


def test_the_student_only_baseline_is_kept() -> None:
    pairs = ["wrn_40_2>wrn_16_2", "vgg13>vgg8"]
    found = split(Records(as_frame(fake_grid(pairs, {"kd": 1.0, "dkd": 2.0}, 2)), [], []))
    (narrow,), _ = select(found, Filters(methods=["DKD"], pairs=["VGG13>vgg8"]))
    assert labels(narrow) == ["ce", "dkd"]
    assert [pair.name for pair in narrow.pairs] == ["vgg13 > vgg8"]
    assert len(narrow.results) == 2
    (same,), _ = select(found, Filters(pairs=["crd-same-family"]))
    assert [pair.name for pair in same.pairs] == ["wrn_40_2 > wrn_16_2", "vgg13 > vgg8"]


def test_rows_and_pairs_that_differ_in_one_word_are_told_apart() -> None:
    records = [
        fake_record("kd", 1, 80.0, teacher_id=teacher, chosen={"temperature": value})
        for teacher in ("cell:abcdef0123", "cell:fedcba9876")
        for value in (2.0, 20.0)
    ]
    found = split(Records(as_frame(records), [], []))

    def rows(name: str) -> list[str]:
        return labels(select(found, Filters(methods=[name]))[0][0])

    assert rows("kd temperature=20") == ["kd temperature=20.0"]
    assert rows("KD temperature=2") == ["kd temperature=2.0"]
    assert rows("kd") == ["kd temperature=2.0", "kd temperature=20.0"]
    with pytest.raises(UserError, match="unknown row 'kd temperature=200'"):
        rows("kd temperature=200")
    with pytest.raises(UserError, match="unknown row 'kd': the rows are kd temp"):
        select(found, Filters(baselines=["kd"]))
    for text, count in (
        ("resnet20>resnet8", 2),
        ("resnet20@fedc>resnet8", 1),
        ("resnet20@wcell:ab>resnet8", 1),
        ("resnet20 (weights wcell:ab) > resnet8", 1),
    ):
        (narrow,), _ = select(found, Filters(pairs=[text]))
        assert len(narrow.pairs) == count, text
