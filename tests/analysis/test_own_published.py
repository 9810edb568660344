"""Published values of users' methods: found like kdbench's own, and a file that is wrong harms no other one."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w
from cells import Typed
from fake_records import fake_grid, write_records
from own_files import install
from test_comparison import split
from test_layouts import column

from kdbench.analysis.published.ledger import claims
from kdbench.analysis.published.tables import with_published
from kdbench.analysis.published.values import Published, datasets, load_published
from kdbench.analysis.tables.layouts import paper
from kdbench.experiment import own_folders

PROTOCOL = "cifar100-crd-v1"
VALUE = {
    "dataset": "CIFAR-100",
    "pair": "WRN-40-2>wrn_16_2",
    "top1": 76.5,
    "teacher_top1": 75.61,
    "student_top1": 73.26,
    "protocol": PROTOCOL,
    "epoch": "last",
    "source": "Somebody: table 2",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv(own_folders.METHODS, str(folder))
    return folder


def write(path: Path, **content: object) -> None:
    path.write_text(tomli_w.dumps(content))
    path.with_suffix(".py").touch()


def test_a_method_that_is_a_published_one_has_its_values(own: Path) -> None:
    pair = "wrn_40_2>wrn_16_2"
    of_pair = load_published("cifar100").select(pairs=[pair]).frame
    of_no_method_of_kdbench = of_pair[(of_pair["kdbench"] == "") & of_pair["method"].str.isalpha()]
    name = str(of_no_method_of_kdbench["method"].iloc[0])
    write(own / "ours.toml", published_as=name.lower())
    published = load_published("cifar100")
    assert published.values_for(pair, name.lower(), PROTOCOL) == ()
    values = published.values_for(pair, "ours", PROTOCOL)
    expected = published.select([name], pairs=[pair]).frame
    assert sorted(value.top1 for value in values) == sorted(expected["top1"]) != []
    assert len(published.frame) == len(load_published("cifar100").frame)
    assert published.method_name("Ours") == name


def test_values_of_a_file_stand_among_those_of_kdbench(own: Path) -> None:
    write(own / "mine.toml", published=[VALUE | {"std": 0.25, "n": 4}, VALUE | {"pair": "vgg13>vgg8", "top1": 74}])
    published = load_published("cifar100")
    assert published.problems == []
    (value,) = published.values_for("wrn_40_2>wrn_16_2", "mine", PROTOCOL)
    assert (value.top1, value.std, value.n, value.epoch, value.source) == (76.5, 0.25, 4, "last", "Somebody: table 2")
    assert value.comparable
    (other,) = published.values_for("vgg13>vgg8", "mine", PROTOCOL)
    assert other.differs == (
        f"teacher vgg13 has 75.61 % in the source, 74.64 in {PROTOCOL}; "
        f"student vgg8 has 73.26 % in the source, 70.36 in {PROTOCOL}"
    )
    assert (other.std, other.n) == (None, None)
    assert published.select(sources=["somebody table 2"]).frame["top1"].tolist() == [76.5, 74.0]
    assert published.select(methods=["mine"]).frame["method"].tolist() == ["mine", "mine"]


def test_values_beside_modules_of_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "kd_published", "theirs")
    (tmp_path / "kd_published" / "theirs.toml").write_text(tomli_w.dumps({"published": [VALUE]}))
    monkeypatch.syspath_prepend(tmp_path)
    (value,) = load_published("cifar100").frame.query("method == 'theirs'")["top1"]
    assert value == VALUE["top1"]


def test_a_data_set_without_values_of_kdbench(own: Path) -> None:
    assert "cifar10" not in datasets()
    entry = {**VALUE, "dataset": "cifar10"} | {"protocol": "cifar10-crd-v1"}
    write(own / "mine.toml", published=[entry])
    assert "cifar10" in datasets()
    assert load_published("cifar10").frame["top1"].tolist() == [76.5]


def test_claims_and_brackets_find_them(own: Path) -> None:
    write(own / "mine.toml", published=[VALUE])
    (comparison,) = split(*fake_grid(["wrn_40_2>wrn_16_2"], {"mine": 1.0}, 3))
    published = load_published("cifar100")
    (claim,) = (claim for claim in claims(comparison, published) if claim.row.method == "mine")
    assert (claim.value.top1, claim.why) == (76.5, "")
    table = with_published(paper(comparison), comparison, published, beside=True)
    assert column(table, "wrn_40_2 wrn_16_2")["mine"].text.endswith(" [76.50]")


def test_a_value_that_another_source_prints_differently_stands_beside_it(own: Path) -> None:
    write(own / "ours.toml", published_as="PCKD", published=[VALUE])
    (comparison,) = split(*fake_grid(["wrn_40_2>wrn_16_2"], {"ours": 1.0}, 3))
    table = with_published(paper(comparison), comparison, load_published("cifar100"), beside=True)
    entry = column(table, "wrn_40_2 wrn_16_2")["ours"]
    assert entry.text.endswith(" [76.97]")
    assert entry.notes[-1] == "printed by pckd; also 76.50 (Somebody: table 2)"


def rows_below(published: Published, *, others: bool) -> dict[str, list[str]]:
    (comparison,) = split(*fake_grid(["wrn_40_2>wrn_16_2", "vgg13>vgg8"], {"kd": 1.0, "mine": 2.0}, 3))
    ours = paper(comparison)
    table = with_published(ours, comparison, published, beside=False, others=others)
    return {row[1].text: [entry.text for entry in row[2:4]] for row in table.rows[len(ours.rows) :]}


def test_a_source_brings_rows_of_methods_without_results_of_ours(own: Path) -> None:
    write(own / "mine.toml", published=[VALUE])
    of_source = load_published("cifar100").select(sources=["pckd", "Somebody: table 2"])
    few, many = (rows_below(of_source, others=others) for others in (False, True))
    assert sorted(few) == ["ce", "kd", "mine"]
    assert few["mine"] == ["76.50", "--"]
    assert list(many)[:3] == list(few)
    assert many["PCKD"] == ["76.97", "75.80"]
    assert "KD" not in many
    printed = of_source.printed("pckd")
    assert set(many) - {"ce", "kd", "mine"} <= {of_source.methods[name].label for name in of_source.frame["method"]}
    assert len(many) > len(printed) // 2


MISTAKES = [
    ({"published_as": "WTMM"}, "unknown published method 'WTMM': did you mean"),
    ({"published_as": 7}, "published_as = 7 must be a text"),
    ({"published": 7}, "published = 7 must be tables [[published]]"),
    ({"published": [VALUE | {"top1": "seven"}]}, "[[published]] 1: top1 must be a number, not 'seven'"),
    ({"published": [VALUE | {"top1": 7650}]}, "[[published]] 1: top1 must be between 0 and 100, not 7650.0"),
    ({"published": [VALUE | {"n": 0}]}, "[[published]] 1: n must be at least 1, not 0"),
    ({"published": [VALUE | {"std": -1}]}, "[[published]] 1: std must be at least 0, not -1.0"),
    ({"published": [VALUE | {"epoch": "third"}]}, "epoch must be 'last' or 'best' or 'unknown', not 'third'"),
    ({"published": [VALUE | {"source": " "}]}, "source must be a text, not ' '"),
    ({"published": [VALUE | {"pair": "vgg13"}]}, "'vgg13' is no pair"),
    ({"published": [VALUE | {"dataset": "cifar1000"}]}, "unknown data set 'cifar1000': did you mean cifar100"),
    ({"published": [VALUE | {"protocol": "cifar10-crd-v1"}]}, "is none of cifar100: name cifar100-crd-v1"),
    ({"published": [VALUE | {"differs": "x"}]}, "protocol and differs"),
    ({"published": [VALUE, VALUE | {"epoch": "best"}]}, "'Somebody: table 2' has two protocols or epochs"),
    ({"published": [VALUE | {"folder": "/etc"}]}, "unknown key 'folder'"),
    ({"published": [{key: VALUE[key] for key in VALUE if key != "source"}]}, "[[published]] 1: source is missing"),
]


@pytest.mark.parametrize(("content", "reason"), MISTAKES)
def test_a_file_that_is_wrong_is_left_out_and_named(content: dict[str, object], reason: str, own: Path) -> None:
    write(own / "fine.toml", published=[VALUE])
    write(own / "wrong.toml", **content)
    published = load_published("cifar100")
    (problem,) = published.problems
    assert problem.startswith(f"{own / 'wrong.toml'} is left out: ")
    assert reason in problem
    assert published.frame["source"].tolist().count(VALUE["source"]) == 1
    assert published.frame["method"].iloc[-1] == "fine"


def test_a_name_that_is_published_asks_which_is_meant(own: Path) -> None:
    write(own / "wttm.toml", published=[VALUE])
    (problem,) = load_published("cifar100").problems
    assert problem.endswith("add published_as = 'WTTM', or give the method another name")


def test_commands_say_what_is_left_out_and_show_the_others(typed: Typed, own: Path) -> None:
    write(own / "mine.toml", published=[VALUE])
    (own / "broken.py").touch()
    (own / "broken.toml").write_text("published = [")
    write_records(own.parent / "runs", fake_grid(["wrn_40_2>wrn_16_2"], {"mine": 1.0}, 3))
    left_out = f"{own / 'broken.toml'} is left out: it is not TOML"
    for words in (
        ("claims", "runs"),
        ("table", "--published", "cifar100", "--methods", "mine"),
        ("table", "runs", "--layout", "paper", "--published", "cifar100", "--source", "Somebody: table 2"),
    ):
        code, out, err = typed(*words)
        assert code == 0, err
        assert "76.50" in out
        assert err.count(left_out) == 1
    code, _, err = typed("table", "runs")
    assert (code, err) == (0, "")
