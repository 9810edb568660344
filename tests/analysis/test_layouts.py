"""The layouts of a comparison: numbers against the standard library, and who gets a mark."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
from cells import Typed
from fake_records import fake_record, write_records
from scipy.stats import t
from test_comparison import split
from test_records import begin

from kdbench.analysis import splitting
from kdbench.analysis.comparison import Comparison
from kdbench.analysis.records import read_records
from kdbench.analysis.tables.entries import fixed
from kdbench.analysis.tables.layouts import detail, paper
from kdbench.analysis.tables.render import render
from kdbench.analysis.tables.table import Entry, Table

TOP1 = {
    "ce": [70.0, 71.0, 72.5],
    "kd": [71.0, 73.0, 73.0],
    "dkd": [74.0, 75.1, 76.3],
    "crd": [73.9, 75.2, 76.1],
}


def records(**changes: Any) -> list[dict[str, Any]]:
    return [
        fake_record(method, seed, top1, teacher=None if method == "ce" else "resnet20", **changes)
        for method, values in TOP1.items()
        for seed, top1 in enumerate(values)
    ]


def one(*more: dict[str, Any]) -> Comparison:
    (found,) = split(*records(), *more)
    return found


def column(table: Table, name: str) -> dict[str, Entry]:
    """A column's places by the label of their row."""
    number = [" ".join(filter(None, names)) for names in zip(*table.heads, strict=True)].index(name)
    return {row[table.num_labels - 1].text: row[number] for row in table.rows}


PAIR = "resnet20 resnet8"


def test_detail_has_mean_sd_gain_and_its_interval() -> None:
    found = one()
    table = detail(found, found.pairs[0])
    assert table.title == "digits-demo-v1: resnet20 (80.00 %, weights wcell:ab) > resnet8"
    top1, gains = column(table, "top-1 %"), column(table, "gain")
    assert list(top1) == ["ce", "kd", "crd", "dkd"]
    for method, values in TOP1.items():
        mean, sd = statistics.mean(values), statistics.stdev(values)
        assert top1[method].text == f"{mean:.2f} ± {sd:.2f}"
        assert top1[method].numbers == {"top-1 %": f"{mean:.2f}", "sd": f"{sd:.2f}", "n": "3"}
    assert gains["ce"].text == "--"
    differences = [a - b for a, b in zip(TOP1["kd"], TOP1["ce"], strict=True)]
    low, high = t.interval(0.95, 2, statistics.mean(differences), statistics.stdev(differences) / 3**0.5)
    assert gains["kd"].text == f"{statistics.mean(differences):+.2f} [{low:+.2f}, {high:+.2f}]"


def test_paper_has_differences_to_the_baseline() -> None:
    found = one()
    kd = column(paper(found, found.find("kd"), "none"), PAIR)
    assert kd["Teacher"].text == "80.00"
    assert kd["Student"].text == "71.17 ± 1.26"
    assert kd["kd"].text == "72.33 ± 1.15"
    assert kd["dkd"].text == "75.13 ± 1.15 ↑2.80"
    assert kd["dkd"].numbers["difference"] == "+2.80"
    assert column(paper(found), PAIR)["kd"].text == "72.33 ± 1.15 ↑1.17"
    assert column(paper(found, found.find("crd")), PAIR)["kd"].text == "72.33 ± 1.15 ↓2.73"


def test_families_are_groups_in_their_order() -> None:
    found = one(*(fake_record("at", seed, 70.0, family="features") for seed in range(3)))
    table = paper(found)
    assert [row[0].text for row in table.rows] == ["", "", "logits", "", "", "features"]
    assert [row[1].text for row in table.rows] == ["Teacher", "Student", "crd", "dkd", "kd", "at"]


def test_only_clear_differences_are_marked_unless_asked() -> None:
    marks = {name: entry.mark for name, entry in column(paper(one()), PAIR).items()}
    assert set(marks.values()) == {""}  # dkd is above crd by 0.07, with an interval from -0.36 to 0.49
    marks = {name: entry.mark for name, entry in column(paper(one(), marks="all"), PAIR).items()}
    assert marks == {"Teacher": "", "Student": "", "crd": "second", "dkd": "best", "kd": ""}
    better = [fake_record("pkt", seed, top1 + 2.0 + seed / 100) for seed, top1 in enumerate(TOP1["dkd"])]
    marks = {name: entry.mark for name, entry in column(paper(one(*better)), PAIR).items()}
    assert marks == {"Teacher": "", "Student": "", "crd": "", "dkd": "", "kd": "", "pkt": "best"}


def test_equal_differences_are_no_interval_and_no_mark() -> None:
    even = [fake_record("pkt", seed, top1 + 2.0) for seed, top1 in enumerate(TOP1["dkd"])]
    found = one(*even)
    assert column(paper(found), PAIR)["pkt"].mark == ""
    alone = [fake_record("ce", seed, 70.0, teacher=None) for seed in range(2)]
    (two,) = split(*alone, *(fake_record("kd", seed, 69.2) for seed in range(2)))
    assert column(detail(two, two.pairs[0]), "gain")["kd"].text == "-0.80"


def test_rows_that_are_not_complete_are_never_marked() -> None:
    short = [fake_record("pkt", seed, 99.0) for seed in range(2)]
    entries = column(paper(one(*short), marks="all"), PAIR)
    assert entries["pkt"].mark == ""
    assert entries["dkd"].mark == "best"
    assert entries["pkt"].notes == ("n = 2; no record of seed 2",)


def test_the_rule_of_the_marks_is_printed() -> None:
    found = one()
    assert any(
        "95 % interval of the paired difference to the next best excludes zero" in note for note in paper(found).notes
    )
    assert any("need not be significant" in note for note in paper(found, marks="all").notes)
    assert not any("bold" in note for note in paper(found, marks="none").notes)


def test_cells_that_are_missing_say_why(tmp_path: Path) -> None:
    write_records(tmp_path, [*records(), fake_record("at", 0, 70.0, student="resnet14")])
    begin(tmp_path / "a", 3, "diverged")
    begin(tmp_path / "b", 4)
    begin(tmp_path / "c", 0, chosen={"temperature": 2.0})
    (found,) = splitting.split(read_records(tmp_path))
    entries = column(paper(found), PAIR)
    assert entries["kd"].notes == ("1 seed failed (diverged); 1 seed not finished",)
    assert entries["kd temperature=2.0"].text == "--"
    assert entries["kd temperature=2.0"].notes == ("1 seed not finished; no record of seeds 1, 2, 3, 4",)
    assert entries["dkd"].notes == ("no record of seeds 3, 4",)
    assert entries["at"] == Entry("--", notes=("not run",))


def test_what_a_reader_must_know_stands_below() -> None:
    found = one(*(fake_record("pckd", seed, 75.0, views=4) for seed in range(3)))
    notes = " | ".join(paper(found).notes)
    assert "after the last of 12 epochs" in notes
    assert "standard deviation (ddof 1), n = 3 seeds" in notes
    assert "resnet20 80.00 % (weights wcell:ab)" in notes
    assert "unequal compute, in views of each image: 4 for pckd; 1 for the others" in notes
    assert "torch 2.14.1; kdbench commit 01234567" in notes


def test_who_queried_the_teacher_live_is_named() -> None:
    cached = [fake_record("at", seed, 75.0) for seed in range(3)]
    for record in cached:
        record["cost"]["teacher_forwards"] = 0
    note = "unequal compute: crd, dkd, kd queried the teacher live; at read its outputs from a cache"
    assert note in paper(one(*cached)).notes
    assert not any("teacher live" in note for note in paper(one()).notes)


def test_settings_that_nobody_published_are_named() -> None:
    source = "defaults; no published settings for resnet20>resnet8 on digits"
    found = one(*(fake_record("at", seed, 70.0, settings_source=source) for seed in range(3)))
    assert "no published settings for these pairs, defaults used: at" in paper(found).notes


def test_the_best_epoch_on_the_test_set_has_its_mark_everywhere(typed: Typed, tmp_path: Path) -> None:
    found = one()
    entries = column(paper(found, reported="best"), PAIR)
    assert entries["Student"].text == "71.47† ± 1.26"
    assert all("†" in entry.text for name, entry in entries.items() if name != "Teacher")
    assert all("†" in entry.text for entry in column(detail(found, found.pairs[0], "best"), "top-1 %").values())
    assert any("selected on the test set" in note for note in paper(found, reported="best").notes)
    assert "†" not in render([paper(found), detail(found, found.pairs[0])], "terminal")
    write_records(tmp_path / "runs", records())
    for command in (["table"], ["table", "--layout", "paper"], ["leaderboard"], ["compare"]):
        code, out, _ = typed(command[0], "runs", *command[1:], "--epoch", "best")
        assert code == 0
        assert "† the best epoch was selected on the test set" in out


@pytest.mark.parametrize(
    ("value", "options", "text"),
    [
        (1.005, {}, "1.00"),
        (-0.001, {}, "0.00"),
        (-0.001, {"sign": True}, "+0.00"),
        (float("nan"), {}, ""),
        (2.0, {"sign": True}, "+2.00"),
    ],
)
def test_numbers_are_printed_without_a_minus_before_zero(value: float, options: dict[str, bool], text: str) -> None:
    assert fixed(value, **options) == text


def test_the_table_command_prints_each_layout_in_each_form(typed: Typed, tmp_path: Path) -> None:
    write_records(tmp_path / "runs", records())
    for form, words in (
        ("terminal", "72.33 ± 1.15"),
        ("markdown", "| dkd"),
        ("latex", r"\toprule"),
        ("csv", "72.33,1.15,3"),
    ):
        for layout in ("detail", "paper"):
            code, out, err = typed("table", "runs", "--layout", layout, "--format", form, "--baseline", "kd")
            assert (code, err) == (0, "")
            assert words in out


def test_unknown_names_are_one_line(typed: Typed, tmp_path: Path) -> None:
    write_records(tmp_path / "runs", records())
    for words, told in (
        (["--baseline", "dk"], "did you mean dkd"),
        (["--methods", "kd,nothing"], "unknown row 'nothing'"),
        (["--pairs", "a>b"], "unknown pair 'a>b'"),
        (
            ["--protocol", "cifar100-crd-v1"],
            "no records under cifar100-crd-v1: there are records under digits-demo-v1",
        ),
    ):
        code, out, err = typed("table", "runs", "--layout", "paper", *words)
        assert (code, out) == (2, "")
        assert told in err
        assert len(err.splitlines()) == 1
