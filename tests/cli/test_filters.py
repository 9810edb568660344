"""Filters of tables and reports in folders with records under several rules."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from cells import Typed
from fake_records import fake_record, write_records
from markupsafe import Markup

from kdbench.analysis.plots.drawing import DrawnPlot
from kdbench.experiment.protocol import load_protocol

SHORT = "digits-demo-v1, with epochs=2"
COMMANDS = ["table", "table --layout paper", "leaderboard", "compare", "report"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Records of three methods under the rules of the demo, and a single one for two epochs."""
    records = [fake_record(method, seed, 80.0 + seed) for method in ("kd", "dkd") for seed in (1, 2)]
    records += [fake_record("ce", seed, 79.0, teacher=None) for seed in (1, 2)]
    records.append(
        fake_record("ce", 1, 50.0, teacher=None, protocol=load_protocol("digits-demo-v1").override(epochs=2))
    )
    write_records(tmp_path / "runs", records)
    return tmp_path / "runs"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing of plots, which takes most of the time of a report."""
    monkeypatch.setattr(
        "kdbench.analysis.report.sections.draw",
        lambda plot: DrawnPlot(plot.name, plot.title, Markup("<svg></svg>"), "<svg/>", b"%PDF"),
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (["--methods", "kd"], "row kd"),
        (["--pairs", "resnet20>resnet8"], "pair resnet20>resnet8"),
        (["--rules", "epochs=12"], "rule epochs=12"),
    ],
)
def test_a_record_under_other_rules_is_left_out(
    command: str, option: list[str], reason: str, runs: Path, typed: Typed, quick: None
) -> None:
    code, _, err = typed(*shlex.split(command), runs, *option)
    assert (code, err) == (0, f"left out: {SHORT} (no {reason})\n")


@pytest.mark.parametrize("command", COMMANDS[:4])
def test_what_no_record_has_is_an_error(command: str, runs: Path, typed: Typed) -> None:
    code, out, err = typed(*shlex.split(command), runs, "--methods", "crd")
    assert (code, out) == (2, "")
    assert err == "kdbench: unknown row 'crd': the rows are ce, dkd, kd\n"


@pytest.mark.parametrize("option", [["--protocol", SHORT], ["--rules", "epochs=2"]])
def test_the_title_of_a_table_selects_it(option: list[str], runs: Path, typed: Typed) -> None:
    code, out, err = typed("table", runs, *option)
    assert (code, out.splitlines()[0]) == (0, f"{SHORT}: resnet8, student only")
    assert err.startswith("left out: digits-demo-v1 (no ")


@pytest.mark.parametrize("command", ["table", "table --layout paper", "compare"])
def test_a_baseline_leaves_out_what_lacks_it(command: str, runs: Path, typed: Typed) -> None:
    code, out, err = typed(*shlex.split(command), runs, "--baseline", "kd")
    assert (code, err) == (0, f"left out: {SHORT} (no row kd)\n")
    assert "kd" in out
    assert typed(*shlex.split(command), runs, "--baseline", "zz")[::2] == (
        2,
        "kdbench: unknown row 'zz': the rows are ce, dkd, kd\n",
    )


def test_gains_of_the_default_layout_are_over_the_named_baseline(runs: Path, typed: Typed) -> None:
    _, out, _ = typed("table", runs, "--baseline", "kd", "--format", "csv", "--rules", "epochs=12")
    assert "gain: over kd" in out
    assert "gain: over ce" not in out


def test_what_needs_more_records_leaves_the_others_out(runs: Path, typed: Typed) -> None:
    """A comparison without a student-only baseline, too few pairs, or published values of other data."""
    write_records(runs / "more", [fake_record("kd", 1, 50.0, protocol=load_protocol("cifar100-crd-v1"))])
    code, out, err = typed("compare", runs)
    assert code == 0
    assert "differences to ce" in out
    assert err.startswith("left out: cifar100-crd-v1 has no student-only baseline")
    code, out, err = typed("table", runs, "--layout", "paper", "--published", "cifar100")
    assert code == 0
    assert out.startswith("cifar100-crd-v1\n")
    assert err.count("left out: digits-demo-v1") == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--source", "crd"], "add --published DATASET"),
        (["--beside"], "add --published DATASET"),
        (["--published", "cifar100"], "add --layout paper"),
        (["--marks", "all"], "add --layout paper"),
    ],
)
def test_an_option_without_the_one_that_it_needs_is_named(
    words: list[str], text: str, runs: Path, typed: Typed
) -> None:
    code, _, err = typed("table", runs, *words)
    assert code == 2
    assert text in err


@pytest.mark.parametrize("words", [["--protocol", "cifar100-crd-v1"], ["--rules", "epochs=2"], ["--epoch", "best"]])
def test_published_values_alone_take_no_filters_of_records(words: list[str], typed: Typed) -> None:
    code, _, err = typed("table", "--published", "cifar100", *words)
    assert code == 2
    assert "are about your records" in err


def test_published_values_of_one_source_stand_with_ours(tmp_path: Path, typed: Typed) -> None:
    rules = load_protocol("cifar100-crd-v1")
    records = [fake_record("kd", seed, 75.0, protocol=rules, teacher="wrn_40_2", student="wrn_16_2") for seed in (1, 2)]
    write_records(tmp_path / "ours", records)
    words = ["table", "ours", "--layout", "paper", "--published", "cifar100", "--source", "crd"]
    for more in ([], ["--beside"]):
        code, out, err = typed(*words, *more)
        assert (code, err) == (0, "")
        assert "sources: crd)" in out


def test_sets_of_pairs_select_published_values(typed: Typed) -> None:
    code, out, err = typed("table", "--published", "cifar100", "--source", "crd", "--pairs", "crd-same-family")
    assert (code, err) == (0, "")
    assert "vgg13" in out
    assert "MobileNetV2" not in out


def test_records_without_the_measure_are_counted_where_they_are_selected(runs: Path, typed: Typed) -> None:
    """Those under two epochs have no macro F1 either, but were not selected."""
    with_f1 = [fake_record(method, 3, 80.0, macro_f1=79.0) for method in ("kd", "dkd")]
    write_records(runs / "more", with_f1)
    words = ("table", runs, "--measure", "macro-f1")
    assert "left out: 7 records without macro F1" in typed(*words)[2]
    assert "left out: 6 records without macro F1" in typed(*words, "--rules", "epochs=12")[2]
    code, _, error = typed(*words, "--rules", "epochs=2")
    assert (code, error.count("\n")) == (2, 1)
    assert "there is nothing to compare: 1 record without macro F1" in error


def test_one_cell_is_not_compared(runs: Path, typed: Typed) -> None:
    folder = next(runs.rglob("record.json")).parent
    code, _, error = typed("compare", folder)
    assert (code, error.count("\n")) == (2, 1)
    assert f"{folder} is the folder of one cell: type that of a second one behind it, or a folder of runs" in error
