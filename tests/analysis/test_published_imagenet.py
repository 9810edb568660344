"""Published values on ImageNet: which networks they are of, what can be compared, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest
from cells import Typed
from fake_records import fake_record
from test_comparison import split
from test_layouts import column
from test_published import values

from kdbench.analysis.published.ledger import claims, ledger_table
from kdbench.analysis.published.tables import published_tables
from kdbench.analysis.published.values import Published, load_published
from kdbench.errors import UserError
from kdbench.experiment.protocol import load_protocol

R34_R18, R50_MV1 = "torchvision:resnet34>torchvision:resnet18", "torchvision:resnet50>MobileNetV1"
PROTOCOL = "imagenet-crd-v1"
CALLED = "MobileNetV1, which the repositories of LSKD, MLLD, CAT-KD, SDD, SLD, EKD and DeepKD call MobileNetV2"


@pytest.fixture(scope="module")
def imagenet() -> Published:
    return load_published("imagenet")


def test_all_values_of_a_method_are_there(imagenet: Published) -> None:
    assert values(imagenet, R34_R18, "KD") == [70.66, 70.68, 70.83, 71.03, 71.21, 71.37, 71.81]
    assert values(imagenet, R50_MV1, "KD") == [70.49, 70.50, 70.68]
    assert imagenet.frame.groupby("pair").size().to_dict() == {R34_R18: 88, R50_MV1: 43}


@pytest.mark.parametrize(
    ("typed_pair", "pair"),
    [
        ("ResNet34>ResNet18", R34_R18),
        ("resnet-34>resnet-18", R34_R18),
        ("ResNet50>MobileNetV1", R50_MV1),
        ("ResNet50>MobileNetV2", R50_MV1),
        ("torchvision:resnet50>MobileNetV1", R50_MV1),
    ],
)
def test_the_papers_names_mean_the_networks_of_their_data_set(
    typed_pair: str, pair: str, imagenet: Published, cifar100: Published
) -> None:
    assert set(imagenet.select(pairs=[typed_pair]).frame["pair"]) == {pair}
    small = cifar100.select(pairs=["ResNet50>MobileNetV2"]).frame
    assert set(small["pair"]) == {"ResNet50>MobileNetV2"}


def test_a_wrong_name_is_one_line(imagenet: Published) -> None:
    with pytest.raises(UserError, match="unknown pair 'ResNet34>ResNet19': did you mean") as raised:
        imagenet.select(pairs=["ResNet34>ResNet19"])
    assert "\n" not in str(raised.value)


def test_values_under_the_protocols_rules_are_those_whose_rules_are_known(imagenet: Published) -> None:
    """CRD (RepDistiller, issue 10), ReviewKD (64 x 4), DIST and NKD (32 x 8) and WKD have batch 256 and rate 0.1."""
    comparable = imagenet.frame[imagenet.frame["protocol"] == PROTOCOL]
    expected = {
        R34_R18: {
            "CRD": 71.17, "CRD+KD": 71.38, "ReviewKD": 71.61, "DIST": 72.07, "NKD": 71.96, "WKD-F": 72.50,
            "WKD-L": 72.49, "WKD-L+WKD-F": 72.76,
        },
        R50_MV1: {"ReviewKD": 72.56, "NKD": 72.58, "WKD-F": 73.12, "WKD-L": 73.17, "WKD-L+WKD-F": 73.69},
    }  # fmt: skip
    for pair, rows in comparable.groupby("pair"):
        assert dict(zip(rows["method"], rows["top1"], strict=True)) == expected.pop(str(pair))
    assert not expected
    rest = imagenet.frame[imagenet.frame["protocol"] == ""]
    assert rest["differs"].all()


@pytest.mark.parametrize(
    ("pair", "method", "top1", "why"),
    [
        (R34_R18, "pckd", 72.01, "the recipe on ImageNet is not public"),
        (R34_R18, "dkd", 71.70, "mdistiller's configuration has batch 512 and learning rate 0.2"),
        (R34_R18, "ctkd", 71.32, "120 epochs, and networks of the source's own: 73.96 % and 70.26 %"),
        (R34_R18, "simkd", 71.66, "SimKD's authors print 71.66 for ResNet50 as the teacher (SimKD, issue 5)"),
        (R34_R18, "crd", 71.38, "the value of CRD+KD in other sources"),
        (R50_MV1, "srrl", 72.49, "the authors' configuration has batch 512 and learning rate 0.2"),
    ],
)
def test_other_rules_are_named(pair: str, method: str, top1: float, why: str, imagenet: Published) -> None:
    (value,) = [value for value in imagenet.values_for(pair, method, PROTOCOL) if value.top1 == top1]
    assert value.differs == why


def test_the_better_of_two_runs_is_said_to_be_one(imagenet: Published) -> None:
    (value,) = [v for v in imagenet.values_for(R34_R18, "at", PROTOCOL) if v.source == "torchdistill"]
    assert "the better of two runs is printed, one on 3 GPUs and one on 1" in value.differs
    assert value.note == "70.56 in the source's log of the run on 3 GPUs"


def test_networks_of_other_accuracies_are_shown_and_not_mixed(imagenet: Published) -> None:
    """69.75 and 69.76 are one network in print; 70.13, 70.26 and 70.80 are others."""
    tables = {table.title: table for table in published_tables(imagenet)}
    under = column(tables[f"Published under {PROTOCOL}"], "torchvision:resnet34 torchvision:resnet18")
    assert (under["Student"].text, under["Student"].notes) == ("69.76", ("printed as 69.75 and 69.76",))
    paddle = column(tables["Published by paddleclas, not comparable"], "torchvision:resnet34 torchvision:resnet18")
    assert (paddle["Teacher"].text, paddle["Student"].text) == ("73.31", "70.80")
    norm = column(tables["Published by norm, not comparable"], "torchvision:resnet34 torchvision:resnet18")
    assert norm["Student"].text == "69.75"
    assert "of a teacher with 73.31 % and a student with 70.13 % without one" in norm["NORM"].notes
    assert not any("without one" in note for note in norm["KD"].notes)
    mgd = column(tables["Published by mgd, not comparable"], "torchvision:resnet34 torchvision:resnet18")
    assert (mgd["Teacher"].text, mgd["Student"].text, mgd["MGD"].text) == ("--", "69.90", "71.69")


def test_a_student_alone_was_trained_by_other_rules(imagenet: Published) -> None:
    for pair, accuracies in ((R34_R18, [69.75, 69.76]), (R50_MV1, [68.87])):
        found = imagenet.values_for(pair, "ce", PROTOCOL)
        assert sorted(value.top1 for value in found) == accuracies
        assert not any(value.comparable for value in found)
    assert {v.differs for v in imagenet.values_for(R34_R18, "ce", PROTOCOL)} == {
        "torchvision's weights, trained for 90 epochs"
    }


def test_a_pool_of_crops_has_nothing_to_compare_with(imagenet: Published) -> None:
    found = imagenet.values_for(R34_R18, "reviewkd", "imagenet-crd-pool50-v1")
    assert found
    assert not any(value.comparable for value in found)
    assert f"comparable with {PROTOCOL}, not with imagenet-crd-pool50-v1" in {value.differs for value in found}
    assert not imagenet.values_for(R34_R18, "ce", "imagenet-crd-pool50-v1")


def test_every_value_of_mobilenetv1_says_what_it_is_called(imagenet: Published) -> None:
    for table in published_tables(imagenet):
        for row in table.rows:
            for head, entry in zip(table.heads[1], row, strict=True):
                if row[1].text not in {"Teacher", "Student"} and head == "MobileNetV1" and entry.text != "--":
                    assert CALLED in entry.notes, (table.title, row[1].text)
                else:
                    assert CALLED not in entry.notes


def test_top5_stands_beside_its_value(typed: Typed) -> None:
    code, out, _ = typed("table", "--published", "imagenet", "--methods", "pckd", "--pairs", "ResNet34>ResNet18")
    assert code == 0
    assert "72.01" in out
    assert "top-5: 90.69 %" in out
    assert "the recipe on ImageNet is not public" in out


def ours(method: str, protocol: str, pair: str, values: list[float]) -> Any:
    teacher, student = pair.split(">")
    accuracy = load_protocol(PROTOCOL).accuracy[teacher]
    networks = {"teacher": teacher, "student": student, "teacher_accuracy": accuracy}
    records = [
        fake_record(method, seed, value, protocol=load_protocol(protocol), **networks)
        for seed, value in enumerate(values)
    ]
    (comparison,) = split(*records)
    return comparison


def test_claims_on_imagenet(imagenet: Published) -> None:
    comparison = ours("reviewkd", PROTOCOL, R50_MV1, [72.5, 72.6, 72.4])
    (claim,) = claims(comparison, imagenet)
    assert (claim.value.top1, claim.verdict) == (72.56, "agrees")
    assert claim.remarks == (f"batch 256 as 64 images on each of 4 GPUs; {CALLED}",)
    assert any(CALLED in note for note in ledger_table(comparison, [claim]).footnotes)


def test_claims_that_cannot_be_compared_say_why_and_what_is_known(imagenet: Published) -> None:
    (claim,) = claims(ours("pckd", PROTOCOL, R34_R18, [72.0, 72.1]), imagenet)
    assert (claim.verdict, claim.why) == ("not comparable", "the recipe on ImageNet is not public")
    assert "published top-5: 90.69 %" in claim.remarks
    (claim,) = claims(ours("ofd", PROTOCOL, R50_MV1, [71.0, 71.1]), imagenet)
    assert claim.why == "mdistiller's configuration has batch 128 and learning rate 0.05"
    assert claim.remarks == (CALLED,)


def test_claims_of_a_pool(imagenet: Published) -> None:
    found = claims(ours("reviewkd", "imagenet-crd-pool50-v1", R34_R18, [71.5, 71.6]), imagenet)
    assert {claim.verdict for claim in found} == {"not comparable"}
