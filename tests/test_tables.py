"""Tables of records."""

from __future__ import annotations

import copy
import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from kdbench.errors import UserError
from kdbench.runs import read_records
from kdbench.tables import comparisons, render

TOP1 = {"ce": [70.0, 71.0, 72.5], "kd": [71.0, 73.0, 73.0]}


def record(method: str, seed: int, top1: float, **changes: Any) -> dict[str, Any]:
    taught = method != "ce"
    values: dict[str, Any] = {
        "cell": f"{method}{seed}{json.dumps(changes)}",
        "protocol": "p-v1",
        "protocol_version": 1,
        "overrides": {},
        "dataset": "digits",
        "precision": "fp32",
        "teacher": {"network": "resnet20", "id": "cell:abcdef0123", "accuracy": 80.0} if taught else None,
        "student": "resnet8",
        "method": method,
        "settings_chosen": {},
        "seed": seed,
        "epochs": 10,
        "top1": top1,
        "nll": 1.0,
        "ece": 2.0,
        "cost": {"views_per_image": 1, "train_seconds": 20.0},
        "config": {},
    }
    if taught:
        values |= {"agreement": 90.0, "teacher_kl": 0.5}
    return values | changes


def write(folder: Path, records: list[dict[str, Any]]) -> None:
    for number, values in enumerate(records):
        path = folder / str(number) / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write(tmp_path, [record(m, seed, v) for m, values in TOP1.items() for seed, v in enumerate(values)])
    return tmp_path


def test_mean_sd_and_paired_gain(runs: Path) -> None:
    (table,) = comparisons(read_records(runs).frame)
    assert table.title == "p-v1: resnet20 (80.00 %, abcdef01) > resnet8"
    rows = table.frame.set_index("method")
    assert rows.loc["ce", "top-1 %"] == f"{statistics.mean(TOP1['ce']):.2f} ± {statistics.stdev(TOP1['ce']):.2f}"
    gains = [a - b for a, b in zip(TOP1["kd"], TOP1["ce"], strict=True)]
    assert rows.loc["kd", "gain"] == f"{statistics.mean(gains):+.2f} ± {statistics.stdev(gains):.2f}"
    assert rows.loc["ce", "gain"] == "--"
    assert rows.loc["kd", "n"] == 3
    assert rows.loc["ce", "agree %"] == "--"


def test_renderings_hold_the_same_cells(runs: Path) -> None:
    (table,) = comparisons(read_records(runs).frame)
    cells = [str(v) for row in table.frame.itertuples(index=False) for v in row]
    for form in ("terminal", "markdown"):
        text = render(table, form)  # type: ignore[arg-type]
        assert all(cell in text for cell in cells)
    lines = [line for line in render(table, "csv").splitlines() if not line.startswith("#")]
    assert [cell for row in list(csv.reader(lines))[1:] for cell in row] == cells


@pytest.mark.parametrize(
    "changes",
    [
        {"overrides": {"epochs": 3}, "epochs": 3},
        {"dataset": "npz:0123"},
        {"precision": "bf16"},
        {"protocol_version": 2},
        {"teacher": {"network": "resnet20", "id": "cell:ffff", "accuracy": 81.0}},
    ],
)
def test_different_rules_are_never_mixed(changes: dict[str, Any], runs: Path) -> None:
    write(runs / "more", [record("kd", seed, 60.0, **changes) for seed in range(2)])
    tables = comparisons(read_records(runs).frame)
    assert len(tables) == 2
    assert {int(n) for t in tables for n in t.frame.loc[t.frame["method"] == "kd", "n"]} == {2, 3}
    with_alone = [t for t in tables if "ce" in set(t.frame["method"])]
    assert len(with_alone) == (2 if "teacher" in changes else 1)


def test_chosen_settings_make_a_row_of_their_own(runs: Path) -> None:
    write(runs / "more", [record("kd", 0, 75.0, settings_chosen={"temperature": 2.0})])
    (table,) = comparisons(read_records(runs).frame)
    assert set(table.frame["method"]) == {"ce", "kd", "kd temperature=2.0"}


def test_two_records_of_one_cell_are_refused(runs: Path) -> None:
    write(runs / "copy", [copy.deepcopy(record("kd", 0, 71.0))])
    with pytest.raises(UserError, match="two records of one cell"):
        comparisons(read_records(runs).frame)


def test_begun_cells_are_counted(runs: Path) -> None:
    (runs / "begun").mkdir()
    (runs / "begun" / "state").write_bytes(b"")
    assert read_records(runs).unfinished == 1


@pytest.mark.checkout
def test_the_stored_table_is_what_the_stored_records_say() -> None:
    folder = Path(__file__).parent.parent / "results" / "cifar10-subset"
    records = read_records(folder / "runs")
    assert not records.problems
    assert len(records.frame) == 19
    tables = "\n".join(render(table, "markdown") for table in comparisons(records.frame))
    assert tables == (folder / "table.md").read_text(encoding="utf-8")
