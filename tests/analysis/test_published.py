"""Published values: the files keep their rules, the loader finds what was printed, and says what can be compared."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_published_files import METHODS, ROWS, SOURCES

from kdbench.analysis.published.values import Published, load_published
from kdbench.errors import UserError
from kdbench.experiment.pairs import named_pairs
from kdbench.experiment.protocol import load_protocol

PROTOCOL = "cifar100-crd-v1"


def values(published: Published, pair: str, method: str) -> list[float]:
    return sorted(published.select(methods=[method], pairs=[pair]).frame["top1"])


def test_the_printed_table_is_reproduced(cifar100: Published) -> None:
    expected = pd.read_csv(Path(__file__).parent.parent / "data" / "pckd_table.csv", index_col="label", na_values="NA")
    assert expected.shape == (24, 7)
    assert expected.isna().sum().sum() == 5
    pd.testing.assert_frame_equal(cifar100.printed("pckd"), expected, check_names=False)


def test_a_selection_of_the_printed_table(cifar100: Published) -> None:
    part = cifar100.select(methods=["pckd", "mlld"], pairs=["vgg13>vgg8", "resnet110>resnet20"]).printed("PCKD")
    assert list(part.index) == ["Teacher", "Student", "MLD", "PCKD"]
    assert list(part.columns) == ["resnet110>resnet20", "vgg13>vgg8"]
    assert part.loc["MLD"].isna().tolist() == [True, False]
    with pytest.raises(UserError, match="crd is not stored as a printed table of cifar100; stored are: pckd"):
        cifar100.printed("crd")
    with pytest.raises(UserError, match="pckd is not stored as a printed table of imagenet; stored are: none"):
        load_published("imagenet").printed("pckd")


@pytest.mark.parametrize(
    ("source", "method", "pairs", "expected"),
    [
        ("lskd", "LSKD(KD+LS)", "crd-same-family", [76.11, 74.37, 71.43, 71.48, 74.17, 76.62, 74.36]),
        ("crd", "kd", "crd-different-family", [67.37, 67.35, 73.81, 74.07, 74.45, 74.83]),
        ("crd", "crd", "crd-different-family", [69.73, 69.11, 74.30, 75.11, 75.65, 76.05]),
        ("sskd", "SSKD", "crd-same-family", [76.04, 76.13, 71.49, None, None, 76.20, 75.33]),
        ("rltf", "SSKD", "crd-same-family", [75.66, 75.27, 70.96, None, None, 75.80, None]),
        ("mdistiller", "DKD", "crd-same-family", [76.23, 74.81, 71.97, None, 74.11, 76.32, 74.68]),
        ("hsakd", "KD", "crd-different-family", [75.21, 75.80, None, None, 75.43, 75.83]),
    ],
)
def test_rows_of_other_tables(
    cifar100: Published, source: str, method: str, pairs: str, expected: list[float | None]
) -> None:
    names = list(map(str, named_pairs()[pairs].pairs))
    frame = cifar100.select(methods=[method], sources=[source], pairs=names).frame
    found = dict(zip(frame["pair"], frame["top1"], strict=True))
    assert len(found) == len(frame)
    assert [found.get(pair) for pair in names] == expected


def test_sources_that_disagree_are_all_there(cifar100: Published) -> None:
    frame = cifar100.select(methods=["dkd"], pairs=["resnet110>resnet20"]).frame
    assert dict(zip(frame["source"], frame["top1"], strict=True)) == {
        "pckd": 71.73,
        "lskd": 71.06,
        "ldrld-notes": 70.91,
    }


def test_a_value_belongs_to_every_source_that_prints_it(cifar100: Published) -> None:
    (row,) = cifar100.select(["KD"], ["mdistiller"], ["wrn_40_2>wrn_16_2"]).frame.to_dict("records")
    assert (row["source"], row["top1"], row["std"], row["std_source"], row["n"]) == ("crd", 74.92, 0.28, "ttm", 5)
    assert (row["epoch"], row["protocol"], row["kdbench"]) == ("last", PROTOCOL, "kd")
    assert "mdistiller" in row["also_in"]
    (row,) = cifar100.select(["DKD"], ["lskd"], ["vgg13>vgg8"]).frame.to_dict("records")
    assert (row["source"], row["epoch"]) == ("ttm", "best")  # mdistiller ran it


def test_names_are_found_in_any_spelling(cifar100: Published) -> None:
    spellings = {
        "kd": "KD",
        "KD++": "KD++",
        "dkd++": "DKD++",
        "crd + kd": "CRD+KD",
        "ICKD": "ICKD-C",
        "ce": "vanilla student",
    }
    assert {typed: cifar100.method_name(typed) for typed in spellings} == spellings
    assert {name: cifar100.method_name(name) for name in METHODS} == {name: name for name in METHODS}
    assert cifar100.method_name("Student") == "vanilla student"
    assert load_published("CIFAR-100").dataset == "cifar100"
    chosen = cifar100.select(methods=["hsakd"], sources=["HSAKD"], pairs=["WRN-40-2>ShuffleV1"]).frame
    assert chosen["top1"].tolist() == [78.51]


def test_an_unknown_name_gives_one_clear_line(cifar100: Published) -> None:
    for select, message in [
        ({"methods": ["fitnte"]}, "unknown published method 'fitnte': did you mean fitnet"),
        ({"sources": ["pcdk"]}, "unknown source 'pcdk': did you mean pckd"),
        ({"pairs": ["vgg13>vgg7"]}, "unknown pair 'vgg13>vgg7': did you mean vgg13>vgg8"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)) as raised:
            cifar100.select(**select)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="unknown data set 'cifar1000': did you mean cifar100"):
        load_published("cifar1000")
    assert cifar100.select(pairs=["vgg19>vgg8"]).frame.empty  # networks that exist, without published values


def test_a_value_with_a_protocol_has_its_networks() -> None:
    accuracy = load_protocol(PROTOCOL).accuracy
    comparable = 0
    for row in ROWS["cifar100"]:
        if PROTOCOL in SOURCES[row["source"]]["protocols"] and not row["differs"]:
            comparable += 1
            assert float(row["teacher_top1"]) == accuracy[row["teacher"]], row
            assert float(row["student_top1"]) == accuracy[row["student"]], row
    frame = load_published("cifar100").frame
    assert comparable == (frame["protocol"] == PROTOCOL).sum() == 724
    assert ((frame["protocol"] == "") == (frame["differs"] != "")).all()
    assert {"sskd", "hsakd", "simkd", "semckd", "ml-repro-2021"}.isdisjoint(frame[frame["protocol"] != ""]["source"])


def test_other_networks_than_the_protocols_cannot_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"method": "KD", "top1": 74.0, "source": "crd", "differs": "", "note": "", "std": None, "n": None}
    networks = [("wrn_40_2", 75.61, "wrn_16_2", 73.26), ("wrn_40_2", 76.46, "vgg16", 73.26)]
    frame = pd.DataFrame(
        [
            row | {"teacher": t, "teacher_top1": ta, "student": s, "student_top1": sa, "also_in": ()}
            for t, ta, s, sa in networks
        ]
    )
    monkeypatch.setattr("kdbench.analysis.published.own.read_values", lambda _: frame)
    found = load_published("cifar100").frame
    assert found["protocol"].tolist() == [PROTOCOL, ""]
    assert found["differs"][1] == (
        "teacher wrn_40_2 has 76.46 % in the source, 75.61 in cifar100-crd-v1; "
        "student vgg16 has 73.26 % in the source, no value in cifar100-crd-v1"
    )


def test_what_a_result_can_be_held_against(cifar100: Published) -> None:
    found = cifar100.values_for("resnet32x4>resnet8x4", "crd", PROTOCOL)
    assert [(v.top1, v.std, v.n, v.epoch, v.source) for v in found if v.comparable] == [
        (75.51, 0.18, 5, "last", "crd"),
        (75.328, 0.201, 5, "last", "crd-reproduction"),
    ]
    reasons = {(v.source, v.top1): v.differs for v in found if not v.comparable}
    assert reasons["sskd", 75.90] == "the source has teachers of its own"
    assert reasons["crd-reproduction", 75.208] == "contrast temperature 0.1; the authors' code has 0.07"
    assert [v.comparable for v in found] == sorted((v.comparable for v in found), reverse=True)
    (pckd,) = cifar100.values_for("wrn_40_2>wrn_16_2", "pckd", PROTOCOL)
    assert (pckd.top1, pckd.std, pckd.n, pckd.epoch, pckd.comparable) == (76.97, None, None, "unknown", True)
    assert cifar100.values_for("vgg13>vgg8", "mlld", PROTOCOL)[0].differs.startswith("two views")
    assert cifar100.values_for("vgg19>vgg8", "kd", PROTOCOL) == ()
    assert cifar100.values_for("vgg13>vgg8", "another", PROTOCOL) == ()


def test_another_protocol_has_nothing_to_compare_with(cifar100: Published) -> None:
    found = cifar100.values_for("vgg13>vgg8", "kd", "cifar10-crd-v1")
    assert found
    assert {v.differs for v in found if v.source == "crd"} == {
        "comparable with cifar100-crd-v1, not with cifar10-crd-v1"
    }
    assert not any(v.comparable for v in found)


@pytest.mark.parametrize("method", ["kd", "crd", "dkd", "pckd"])
def test_pairs_of_the_protocol_have_values_to_compare_with(cifar100: Published, method: str) -> None:
    for pair in map(str, named_pairs()["crd-same-family"].pairs):
        assert any(v.comparable for v in cifar100.values_for(pair, method, PROTOCOL)), pair


def test_a_student_alone_needs_no_teacher(cifar100: Published) -> None:
    beside, rerun = cifar100.values_for("none>resnet8x4", "ce", PROTOCOL)
    assert (beside.top1, beside.n, beside.epoch, beside.source) == (72.50, None, "last", "crd")
    assert (rerun.top1, rerun.std, rerun.n, rerun.source) == (72.488, 0.272, 5, "crd-reproduction")
    for student in ("wrn_16_2", "MobileNetV2", "vgg8"):
        (value,) = cifar100.values_for(f"none>{student}", "ce", PROTOCOL)
        assert value.top1 == load_protocol(PROTOCOL).accuracy[student]
        assert value.method == "vanilla student"


def test_values_are_read_without_torch() -> None:
    code = (
        "import sys; from kdbench.analysis.published.values import load_published as load; load('cifar100'); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
