"""Published values: the files keep their rules."""

from __future__ import annotations

import csv
import itertools
import re
import tomllib
from importlib import resources
from typing import Any

import pytest

from kdbench.analysis.published.values import datasets, load_published
from kdbench.experiment.protocol import load_protocol
from kdbench.experiment.registry import method_names
from kdbench.models import canonical_network

FOLDER = resources.files("kdbench.results") / "published"
NOT_IN_KDBENCH = {"ShuffleNetV2x1.5"}
PLANNED = {"dot"}


def read(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((FOLDER / name).read_text(encoding="utf-8").splitlines()))


def toml(name: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads((FOLDER / name).read_text(encoding="utf-8"))


ROWS = {dataset: read(f"{dataset}.csv") for dataset in ("cifar100", "imagenet")}
METHODS = {row["name"]: row for row in read("methods.csv")}
SOURCES = toml("sources.toml")


def test_no_value_is_lost() -> None:
    assert datasets() == ["cifar100", "imagenet"]
    assert {dataset: len(rows) for dataset, rows in ROWS.items()} == {"cifar100": 1027, "imagenet": 131}
    assert {dataset: len(load_published(dataset).frame) for dataset in ROWS} == {"cifar100": 1027, "imagenet": 131}


@pytest.mark.parametrize("dataset", ROWS)
def test_rows_keep_the_schema(dataset: str) -> None:
    columns = (FOLDER / f"{dataset}.csv").read_text(encoding="utf-8").split("\n", 1)[0]
    top5 = {"cifar100": "", "imagenet": "top5,"}[dataset]
    assert columns == (
        f"teacher,student,method,top1,{top5}std,std_source,n,teacher_top1,student_top1,source,also_in,disagrees,"
        "differs,note"
    )
    for row in ROWS[dataset]:
        assert not row.get("top5") or float(row["top1"]) < float(row["top5"]) < 100, row
        for column in ("top1", "teacher_top1", "student_top1"):
            if column != "top1" and not row[column]:
                assert row["differs"] or SOURCES[row["source"]].get("differs"), row
                continue
            assert re.fullmatch(r"\d\d\.\d{2,3}", row[column]), row
            assert 20 < float(row[column]) < 100, row
        assert row["std"] == "" or 0 < float(row["std"]) < 1, row
        assert row["n"] == "" or 1 <= int(row["n"]) <= 10, row
        assert bool(row["std"]) == bool(row["std_source"]), row
        keys = [row["source"], *row["also_in"].split(" ")] if row["also_in"] else [row["source"]]
        assert set(keys) <= set(SOURCES), row
        assert len(set(keys)) == len(keys), row
        assert row["std_source"] in {"", *keys}, row
        assert row["method"] in METHODS, row
        for network in (row["teacher"], row["student"]):
            assert network in NOT_IN_KDBENCH or canonical_network(network) == network, row
        assert all(text == text.strip() for text in row.values()), row


@pytest.mark.parametrize("dataset", ROWS)
def test_no_row_stands_twice(dataset: str) -> None:
    key = ("teacher", "student", "method", "top1", "source")
    keys = [tuple(row[column] for column in key) for row in ROWS[dataset]]
    assert len(set(keys)) == len(keys)
    # A value that two sources print for the same networks' accuracies is one row.
    key = ("teacher", "student", "method", "top1", "teacher_top1", "student_top1")
    keys = [tuple(row[column] for column in key) for row in ROWS[dataset]]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("dataset", ROWS)
def test_values_that_disagree_are_rows_that_disagree_back(dataset: str) -> None:
    rows = [row for row in ROWS[dataset] if row["disagrees"]]
    assert len(rows) == {"cifar100": 85, "imagenet": 23}[dataset]
    for row in rows:
        others = row["disagrees"].split(" ")
        assert row["top1"] not in others
        for other in others:
            cell = [r for r in rows if all(r[c] == row[c] for c in ("teacher", "student", "method"))]
            assert any(r["top1"] == other and row["top1"] in r["disagrees"].split(" ") for r in cell), row


def test_every_source_and_method_is_used() -> None:
    rows = list(itertools.chain(*ROWS.values()))
    assert {key for row in rows for key in (row["source"], *row["also_in"].split())} == set(SOURCES)
    assert {row["method"] for row in rows} == set(METHODS)


@pytest.mark.parametrize("key", SOURCES)
def test_what_a_source_ran_it_prints(key: str) -> None:
    rows = [row for row in itertools.chain(*ROWS.values()) if key in {row["source"], *row["also_in"].split()}]
    source = SOURCES[key]
    assert set(source) <= {"title", "url", "protocols", "epoch", "own", "differs", "table"}
    assert set(source["own"]) - {"vanilla student"} <= {row["method"] for row in rows}
    assert source.get("url", "https://").startswith("https://")
    datasets = [load_protocol(protocol).dataset for protocol in source["protocols"]]
    assert len(set(datasets)) == len(datasets)
    printed = {name for name, rows in ROWS.items() for row in rows if key in {row["source"], *row["also_in"].split()}}
    assert set(datasets) <= printed


def test_what_is_contested_is_printed_and_says_where() -> None:
    for dataset, values in toml("contested.toml").items():
        rows = {(f"{row['teacher']}>{row['student']}", row["method"], float(row["top1"])) for row in ROWS[dataset]}
        for value in values:
            assert set(value) == {"pair", "method", "top1", "why"}
            assert (value["pair"], value["method"], value["top1"]) in rows
            assert re.search(r"\(.*issue \d+.*\)", value["why"])


def test_networks_of_which_something_must_be_known_have_values() -> None:
    for dataset, networks in toml("networks.toml").items():
        in_values = {row[role] for row in ROWS[dataset] for role in ("teacher", "student")}
        names = [name for network in networks.values() for name in network["names"]]
        assert set(networks) <= in_values
        assert len(set(names)) == len(names)
        assert all(set(network) <= {"names", "note", "alone"} for network in networks.values())


def test_the_papers_name_of_a_network_stands_in_no_row_of_imagenet() -> None:
    """ResNet50 and MobileNetV2 are kdbench's networks for small images."""
    networks = {row[role] for row in ROWS["imagenet"] for role in ("teacher", "student")}
    assert networks == {"torchvision:resnet34", "torchvision:resnet18", "torchvision:resnet50", "MobileNetV1"}


def test_methods_are_kdbenchs_or_planned() -> None:
    assert set(next(iter(METHODS.values()))) == {"name", "label", "family", "year", "paper", "kdbench"}
    named = [method["kdbench"] for method in METHODS.values() if method["kdbench"]]
    assert set(named) <= {*method_names(), *PLANNED}
    assert len(set(named)) == len(named)
    assert {"ce", "kd", "dkd", "crd", "reviewkd", "pckd"} <= set(named)
    assert len({method["label"] for method in METHODS.values()}) == len(METHODS)
    for method in METHODS.values():
        assert method["year"] == "" or 2014 < int(method["year"]) < 2027
