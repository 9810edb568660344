"""Methods and networks as papers print them, in tables and plots; options and file names keep the typed names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from cells import Typed
from fake_records import fake_record, write_records
from own_files import install
from test_comparison import split

from kdbench.analysis.comparison import Comparison
from kdbench.analysis.plots.pictures import OF_PAIRS, Material, Picture, draw_pairs
from kdbench.analysis.printed_names import read_printed_names
from kdbench.analysis.tables.layouts import paper
from kdbench.analysis.tables.leaderboard import leaderboard, leaderboard_table
from kdbench.analysis.tables.render import render
from kdbench.experiment import own_folders
from kdbench.experiment.registry import method_names
from kdbench.models import NETWORKS


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with methods and networks."""
    monkeypatch.setenv(own_folders.OWN, str(tmp_path))
    for kind in ("methods", "networks"):
        (tmp_path / kind).mkdir()
    return tmp_path


def say(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").touch()
    (folder / f"{name}.toml").write_text(text)


def records(*methods: str, student: str = "wrn_16_2", **changes: Any) -> list[dict[str, Any]]:
    alone = [fake_record("ce", seed, 70.0 + seed, student=student, teacher=None) for seed in (1, 2)]
    return alone + [
        fake_record(method, seed, 72.0 + seed, teacher="wrn_40_2", student=student, **changes)
        for method in methods
        for seed in (1, 2)
    ]


def printed(*made: dict[str, Any]) -> Comparison:
    (comparison,) = split(*made)
    return read_printed_names().comparison(comparison)


def test_every_method_and_network_of_kdbench_has_a_printed_name() -> None:
    names = read_printed_names()
    assert set(method_names()) <= names.methods.keys()
    assert names.methods["reviewkd"] == "ReviewKD"
    assert names.methods["dot"] == "DOT", "the base is a setting, which the label has behind the name"
    assert {name for name in NETWORKS if not name[:1].isupper()} <= names.networks.keys()


@pytest.mark.parametrize(
    ("typed_name", "expected"),
    [
        ("wrn_40_2", "WRN-40-2"),
        ("resnet32x4", "ResNet32×4"),
        ("torchvision:resnet50", "ResNet50"),
        ("MobileNetV2", "MobileNetV2"),
        ("resnet56:80", "ResNet56:80"),
        ("resnet56+wrn_40_2", "ResNet56+WRN-40-2"),
        ("logits:resnet56", "logits:resnet56"),
        ("timm:vit_tiny_patch16_224", "vit_tiny_patch16_224"),
        ("resnet8 (version 2)", "ResNet8 (version 2)"),
        ("", ""),
    ],
)
def test_networks_and_teachers(typed_name: str, expected: str) -> None:
    assert read_printed_names().network(typed_name) == expected


def test_labels_heads_and_notes_have_printed_names() -> None:
    comparison = printed(*records("reviewkd", "kd", chosen={"temperature": 2}))
    for table in (paper(comparison), leaderboard_table(leaderboard(comparison))):
        text = render([table], "terminal")
        assert "ReviewKD temperature=2" in text
        assert "WRN-40-2" in text
        assert not [name for name in ("reviewkd", "wrn_40_2", "wrn_16_2", "ce") if name in text.split()]


def test_typed_labels_are_found_and_name_files(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = printed(*records("kd", chosen={"temperature": 2}))
    row = next(row for row in comparison.rows if row.method == "kd")
    assert (row.label, row.typed) == ("KD temperature=2", "kd temperature=2")
    assert comparison.find("kd temperature=2") == comparison.find("KD temperature=2.0") == row
    (pair,) = comparison.pairs
    assert (pair.name, pair.typed) == ("WRN-40-2 > WRN-16-2", "wrn_40_2 > wrn_16_2")
    assert comparison.result(row, pair)
    monkeypatch.setitem(cast("dict[str, Picture]", OF_PAIRS), "top1", Picture("", "", lambda *given: given[2]))
    drawn = dict(draw_pairs(["top1"], Material(comparison, {}), "base"))
    assert drawn["top1"] == "base-top1-wrn_40_2-wrn_16_2"


def test_teachers_of_one_network_keep_their_hashes() -> None:
    first, second = records("kd"), records("kd", teacher_id="cell:other")
    comparison = printed(*first, *second[2:])
    names = [pair.name for pair in comparison.pairs]
    assert len(set(names)) == 2
    assert all(name.startswith("WRN-40-2 (weights ") for name in names)
    assert [pair.typed.replace("wrn_", "WRN-").replace("_", "-") for pair in comparison.pairs] == names


def test_ones_own_methods_and_networks_say_theirs(own: Path) -> None:
    say(own / "methods", "mine", 'printed_as = "Mine-KD"')
    say(own / "methods", "ours", 'published_as = "CAT-KD"')
    say(own / "networks", "tiny", 'printed_as = "TinyNet"')
    comparison = printed(*records("mine", "ours", student="tiny"))
    assert [row.label for row in comparison.rows] == ["Student", "Mine-KD", "CAT-KD"]
    assert comparison.pairs[0].name == "WRN-40-2 > TinyNet"


def test_files_beside_modules_of_packages_are_read_without_their_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "kd_printed", "theirs", "others")
    (tmp_path / "kd_printed" / "__init__.py").write_text("raise AssertionError")
    (tmp_path / "kd_printed" / "theirs.toml").write_text('printed_as = "Theirs-KD"')
    (tmp_path / "kd_printed" / "others.toml").write_text('published_as = "CAT-KD"')
    monkeypatch.syspath_prepend(tmp_path)
    names = read_printed_names()
    assert (names.method("theirs"), names.method("others")) == ("Theirs-KD", "CAT-KD")
    assert not names.problems


def test_names_that_would_be_alike_stay_as_they_are_typed(own: Path) -> None:
    say(own / "methods", "mine", 'printed_as = "KD"')
    comparison = printed(*records("mine", "kd", "dkd"))
    assert sorted(row.label for row in comparison.rows) == ["DKD", "Student", "kd", "mine"]


def test_a_file_that_cannot_be_used_is_named(own: Path) -> None:
    say(own / "methods", "a", "printed_as = 7")
    say(own / "methods", "b", "printed_as =")
    say(own / "networks", "c", 'printed_as = " "')
    problems = read_printed_names().problems
    assert [problem.partition(" is left out: ")[0].rpartition("/")[2] for problem in problems] == [
        "a.toml", "b.toml", "c.toml",
    ]  # fmt: skip
    assert "printed_as = 7 must be a text" in problems[0]


def test_latex_has_printed_names_unless_asked_otherwise(tmp_path: Path, typed: Typed) -> None:
    write_records(tmp_path / "runs", records("reviewkd"))
    for command in ("table --layout paper", "table", "leaderboard", "compare"):
        name, *words = command.split()
        for form, names in (("latex", []), ("markdown", ["--names", "printed"])):
            code, out, _ = typed(name, "runs", *words, "--format", form, *names)
            assert code == 0
            assert "ReviewKD" in out
            assert "wrn" not in out
        _, out, _ = typed(name, "runs", *words, "--format", "latex", "--names", "typed")
        assert "ReviewKD" not in out


def test_filters_take_typed_and_printed_names(tmp_path: Path, typed: Typed) -> None:
    write_records(tmp_path / "runs", records("reviewkd", "kd"))
    words = ["--layout", "paper", "--names", "printed", "--methods", "ReviewKD", "--pairs", "WRN-40-2>wrn_16_2"]
    code, out, _ = typed("table", "runs", *words, "--baseline", "kd")
    assert code == 0
    assert "ReviewKD" in out
    assert "difference to KD" in out
