"""Grids: what their files may say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cells import Typed

from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment.cell import lockstep_groups
from kdbench.grid.file import read_grid
from kdbench.grid.grid import Grid

PAPER = """
protocol = "cifar100-crd-v1"
pairs    = ["crd-same-family", "ResNet50>MobileNetV2"]
methods  = ["ce", "kd", "crd", "reviewkd", "dkd", "pckd"]
seeds    = 5
[method.dkd]
beta = 6.0
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_papers_grid(tmp_path: Path) -> None:
    grid = Grid.open(write(tmp_path / "paper.toml", PAPER), runs=tmp_path / "runs")
    # 8 pairs, 6 methods, 5 seeds; resnet20 alone is the same cell under its two teachers
    assert len(grid.cells) == 8 * 6 * 5 - 5
    assert len({cell.id for cell in grid.cells}) == len(grid.cells)
    networks = {teacher.ref.network for teacher in grid.teachers.values()}
    assert networks == {"wrn_40_2", "resnet56", "resnet110", "resnet32x4", "vgg13", "ResNet50"}
    assert {cell.student for cell in grid.to_train} == networks
    assert {cell.settings.values()["beta"] for cell in grid.cells if cell.method == "dkd"} == {6.0}
    assert {cell.seed for cell in grid.cells} == {1, 2, 3, 4, 5}
    assert {cell.seed for cell in grid.to_train} == {0}


def test_the_ids_of_many_seeds_are_those_of_each(tmp_path: Path) -> None:
    grid = Grid.open(write(tmp_path / "paper.toml", PAPER), runs=tmp_path / "runs")
    for cell in grid.cells[::17]:
        single = grid.session.cell(
            method=cell.method,
            student=cell.student,
            teacher=cell.teacher,
            seed=cell.seed,
            settings=cell.settings.chosen,
        )
        assert single.id == cell.id
        assert single.identity() == cell.identity()


def test_names_in_any_spelling_and_several_values(tmp_path: Path) -> None:
    text = PAPER.replace('"ResNet50>MobileNetV2"', '"WRN-40-2@ab>shuffle_v1"').replace('"dkd"', '"DKD"')
    file = read_grid(write(tmp_path / "a.toml", text.replace("6.0", "[1, 2.5]").replace("seeds    = 5", "seeds = [7]")))
    assert str(file.pairs[-1]) == "wrn_40_2@ab>ShuffleNetV1"
    assert file.settings == {"dkd": {"beta": (1, 2.5)}}
    assert file.seeds == (7,)


def test_a_method_may_have_epochs_of_its_own(tmp_path: Path) -> None:
    text = PAPER.replace("[method.dkd]", "[method.ce]\nepochs = [240, 391]\nlabel_smoothing = [0.0, 0.1]\n[method.dkd]")
    grid = Grid.open(write(tmp_path / "paper.toml", text), runs=tmp_path / "runs")
    without = Grid.open(write(tmp_path / "without.toml", PAPER), runs=tmp_path / "runs")
    cells = {cell.id: cell for cell in grid.cells}
    # 7 students, each of 5 seeds at two lengths and two smoothings; the usual cells are the same as ever
    assert sum(cell.method == "ce" for cell in grid.cells) == 7 * 5 * 2 * 2
    assert {cell.id for cell in without.cells} < cells.keys()
    (longer,) = [
        cell for cell in grid.by_row[grid.file.pairs[0], "ce"] if str(cell) == "ce wrn_16_2 for 391 epochs seed 1"
    ]
    alike = Session.open("cifar100-crd-v1", runs=tmp_path / "runs", epochs=391)
    assert longer.id == alike.cell(method="ce", student=longer.student, seed=1, settings={}).id
    assert {cell.protocol.epochs for cell in cells.values() if cell.method == "dkd"} == {240}
    # what trains a teacher is not changed
    assert {cell.id for cell in grid.to_train} == {cell.id for cell in without.to_train}
    assert all(len({cell.protocol.epochs for cell in group}) == 1 for group in lockstep_groups(grid.cells, None))
    assert grid.file.num_cells == without.file.num_cells + 8 * 5 * 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds ", "seed ", r"seed = 5: unknown key 'seed': known are protocol, pairs, methods, seeds, epochs"),
        ('"kd", "crd"', '"kdd", "crd"', r"methods = \[.*\"kdd\".*\]: unknown method 'kdd': did you mean kd"),
        (
            '"kd", "crd"',
            '"kdd", "crd"',
            "'kdbench list methods' names all; one of your own is found with",
        ),
        (
            "ResNet50>",
            "ResNet51>",
            r"there is no network 'ResNet51'; did you mean .*ResNet50.*known are the sets",
        ),
        ("ResNet50>", "ResNet50", r"pairs = .*: 'ResNet50MobileNetV2' is no pair: type 'TEACHER>STUDENT'"),
        (
            "ResNet50>MobileNetV2",
            "vgg-13>VGG8",
            r"pairs = .*: pair vgg13>vgg8 is listed twice: keep one",
        ),
        ('"kd", "crd"', '"kd", "KD"', r"methods = .*: method kd is listed twice"),
        ("seeds    = 5", "seeds = [1, 2, 1]", r"seeds = \[1, 2, 1\]: seed 1 is listed twice"),
        (
            "seeds    = 5",
            "seeds = 0",
            r"seeds = 0: seeds must be a positive number \(5 means 1 to 5\) or a list such as",
        ),
        ("seeds    = 5", "seeds = [-1]", r"seeds = \[-1\]: a seed must be between 0 and"),
        ("seeds    = 5", "seeds = true", r"seeds = true: seeds must be a positive number"),
        ("seeds    = 5", "", r"has no line 'seeds'"),
        (
            "beta = 6.0",
            "betta = 6.0",
            r"\[method.dkd\] \{\"betta\": 6.0\}: method dkd has no setting 'betta'",
        ),
        ("beta = 6.0", "epochs = [9, 1.5]", r"\[method.dkd\] epochs \[9, 1.5\]: must be a whole number"),
        ("beta = 6.0", "epochs = 0", r"\[method.dkd\] epochs 0: epochs must be at least 1"),
        ("beta = 6.0", "beta = 'x'", r"\[method.dkd\] .*: setting beta of method dkd must be float, not 'x'"),
        ("beta = 6.0", "beta = [1, 1]", r"\[method.dkd\] .*: beta must be one value or a list of different values"),
        (
            "method.dkd",
            "method.fitnet",
            r"\[method.fitnet\] .*: unknown method 'fitnet': known of this grid are ce",
        ),
        ("cifar100-crd-v1", "speech", r"protocol = \"speech\": unknown protocol 'speech': 'kdbench list"),
        ("seeds    = 5", "seeds = 5\nepochs = 0", r"epochs = 0: epochs must be at least 1"),
        ("seeds    = 5", 'seeds = 5\nepochs = "9"', r"epochs = \"9\": must be a whole number"),
        (
            "seeds    = 5",
            'seeds = 5\nprecision = "fp8"',
            r"precision = \"fp8\": unknown precision 'fp8': known are",
        ),
        ("seeds    = 5", "seeds = 5\nseeds = 6", r"is not TOML: Cannot overwrite a value \(at line"),
        ("seeds    = 5", "seeds = 1000000000", r"seeds = 1000000000: a grid has at most 200,000 cells: give fewer"),
        ("seeds    = 5", f"seeds = {10**30}", r"seeds = 10{30}: a grid has at most 200,000 cells: give fewer"),
        ("seeds    = 5", f"seeds = [{10**30}]", r"a seed must be between 0 and 2147483647, not 10{30}"),
        ("seeds    = 5", f"seeds = {'9' * 5000}", r"is not TOML: "),
        ("seeds    = 5", f"seeds = {'[' * 50_000}", r"is not TOML: "),
        ("seeds    = 5", f"seeds = {'[' * 200}{']' * 200}", r"is not TOML: it nests too deep"),
        ("seeds    = 5", f"seeds = 5\nepochs = {10**30}", r"epochs = 10{30}: epochs must be at most 1,000,000"),
        ("seeds    = 5", "seeds = 5000", r"make 240,000 cells, but a grid has at most 200,000"),
        (
            "beta = 6.0",
            f"beta = {list(range(1000))}\nalpha = {list(range(1000))}",
            r"pairs, methods, settings and seeds make 40,000,200 cells, but a grid has at most 200,000: give fewer of",
        ),
        ('pairs    = ["', 'pairs    = "', r"is not TOML"),
        ('["crd-same-family", "ResNet50>MobileNetV2"]', "[]", r"pairs = \[\]: must be a list of pairs"),
    ],
)
def test_a_mistake_in_the_file_names_the_line_and_what_is_known(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert old in PAPER
    path = write(tmp_path / "paper.toml", PAPER.replace(old, new))
    with pytest.raises(UserError, match=said) as caught:
        Grid.open(path, runs=tmp_path / "runs")
    assert str(caught.value).startswith(f"{path}")
    assert "\n" not in str(caught.value)


def test_two_spellings_of_one_teacher_are_one_pair(tmp_path: Path) -> None:
    """Its cells would count twice."""
    grid = Grid.open(write(tmp_path / "a.toml", PAPER), runs=tmp_path)
    cell = grid.session.teacher_cell("resnet56")
    card = {"network": "resnet56", "id": cell.as_teacher.id, "dataset": "cifar100", "weights": "0", "accuracy": 70.0}
    folder = tmp_path / "cifar100-crd-v1" / "teachers" / "resnet56"
    folder.mkdir(parents=True)
    (folder / "teacher.json").write_text(json.dumps(card | {"expected": None, "origin": "trained here"}))
    pairs = f'"resnet56>resnet20", "resnet56@{cell.id[:4]}>resnet20"'
    text = PAPER.replace('"crd-same-family", "ResNet50>MobileNetV2"', pairs)
    with pytest.raises(
        UserError, match=rf"resnet56>resnet20 and resnet56@{cell.id[:4]}>resnet20 have the same teacher"
    ):
        Grid.open(write(tmp_path / "a.toml", text), runs=tmp_path)


def test_a_file_that_is_not_there(typed: Typed) -> None:
    code, _, err = typed("grid", "plan", "nothing.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "file nothing.toml does not exist" in err


@pytest.mark.parametrize("words", [["run"], ["submit", "--cluster", "local"]])
@pytest.mark.parametrize("seconds", ["nan", "-5", "inf"])
def test_seconds_between_saves_are_checked_before_anything_starts(words: list[str], seconds: str, typed: Typed) -> None:
    lines = 'protocol = "digits-demo-v1"', 'pairs = ["resnet14>resnet8"]', 'methods = ["ce"]', "seeds = 1"
    write(Path("small.toml"), "\n".join(lines))
    code, _, err = typed("grid", *words, "small.toml", "--save-every", seconds)
    assert code == 2
    assert err.startswith("kdbench: --save-every must be ")
    assert not Path("runs").exists()
