"""What commands say of mistakes, failed cells and damaged files."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import tomli_w
from cells import Typed
from own_files import write_own
from test_teachers import make_teacher

MISTAKES = [
    (["train", "--protocol", "cifar", "--student", "resnet8", "--method", "ce"], "unknown protocol 'cifar'"),
    (["train", "--protocol", "digits-demo-v1", "--student", "resnet9", "--method", "ce"], "resnet9"),
    (["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "dkdd"], "did you mean dkd"),
    (["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "kd"], "needs a teacher"),
    (
        ["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--teacher", "vgg8", "--method", "kd"],
        "kdbench teacher train --protocol digits-demo-v1 --network vgg8",
    ),
    (
        ["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--set", "x=1"],
        "method ce has no setting 'x'",
    ),
    (["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--set", "x"], "key=value"),
    (["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--epochs", "0"], "--epochs"),
    (["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--seed", "-1"], "--seed"),
    (["train", "--protocol", "digits-demo-v1", "--student", "timm:nope", "--method", "ce"], "nope"),
    (["train", "--protocol", "digits-demo-v1", "--student", "timm:resnet18.a1_in1k", "--method", "ce"], "pretrained"),
    (["teacher", "train", "--protocol", "digits-demo-v1", "--network", "timm:resnet18.a1_in1k"], "pretrained"),
    (["bench", "resnet8>timm:resnet18.a1_in1k"], "pretrained"),
    (["train", "--protocol", "cifar100-crd-v1", "--student", "resnet8", "--method", "ce"], "--download"),
    (["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--device", "cuda:9"], "cuda"),
    (
        ["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--data", "npz:no.npz"],
        "no.npz",
    ),
    (
        ["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--together", "0"],
        "--lockstep must be at least 1",
    ),
    (
        ["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--device", "meta"],
        "type cpu, cuda or cuda:1",
    ),
    (
        ["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--device", "cpu:5"],
        "type cpu, cuda or cuda:1",
    ),
    (
        ["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--device", "xla"],
        "--device xla: ",
    ),
    (["cache", "build", "--protocol", "digits-demo-v1", "--teacher", "vgg8", "--method", "kd"], "no teacher vgg8"),
    (["bench", "resnet8"], "is no pair"),
    (["bench", "resnet8>resnet9"], "resnet9"),
    (["table", "nowhere"], "the folder nowhere does not exist"),
    (["table", "."], "no finished cells"),
    (["show", "pkcd"], "did you mean pckd"),
    (["teacher", "import", "no.pth", "--protocol", "digits-demo-v1", "--network", "resnet8"], "no checkpoint no.pth"),
    (["data", "subset", "cifar-11", "o.npz", "--train-per-class", "1", "--test-per-class", "1"], "cifar-11"),
    (["data", "subset", "digits", "o.npz", "--train-per-class", "9999", "--test-per-class", "1"], "9999"),
    (["grid", "submit", "g.toml", "--cluster", "local", "--profile", "p.toml"], "--profile is for Slurm: leave it out"),
    (["grid", "submit", "g.toml", "--profile", "p.toml", "--jobs", "1"], "are for --cluster local: leave them out"),
    (["grid", "submit", "g.toml", "--profile", "p.toml", "--lockstep", "1"], "are for --cluster local: leave them out"),
    (["grid", "retry", "g.toml", "--profile", "p.toml", "--jobs", "2"], "leave one of them out"),
    (["cache", "prune", "resnet8-00000000", "--all"], "leave it out to delete resnet8-00000000 only"),
]


@pytest.mark.parametrize(("words", "text"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str], text: str, typed: Typed) -> None:
    code, _, err = typed(*words)
    assert code == 2
    assert text in err
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("kdbench: ")


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("temperature=4\nx=5", r"must be float, not '4\nx=5'"),
        (f"temperature={'9' * 400}", "which is too large"),
        (f"temperature={'9' * 5000}", "must be float"),
        (f"temperature={'[' * 3000}", "must be float"),
        ("alfa=1", "its settings are alpha, "),
        ("beta=big", "must be float"),
        ("temperature=0", "temperature"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, text: str, typed: Typed) -> None:
    words = ["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--teacher", "resnet8", "--method", "dkd"]
    code, _, err = typed(*words, "--set", setting)
    assert (code, len(err.splitlines())) == (2, 1)
    assert text in err


def test_runs_that_cannot_be_written_are_named(typed: Typed, small: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = typed("train", *small, "--student", "resnet8", "--method", "ce", "--runs", "file/runs")
    assert code == 2
    assert "--runs DIR" in err


def test_a_damaged_record_is_left_out_and_named(typed: Typed, small: list[str]) -> None:
    assert typed("train", *small, "--student", "resnet8", "--method", "ce")[0] == 0
    Path("runs/bad").mkdir()
    Path("runs/bad/record.json").write_text('{"cell": ')
    code, out, err = typed("table", "runs")
    assert code == 2
    assert "resnet8" in out
    assert "runs/bad/record.json is left out" in err


def test_a_cell_that_fails_is_named_when_the_others_are_done(typed: Typed, small: list[str]) -> None:
    make_teacher(typed, small)
    words = ["train", *small, "--teacher", "resnet8", "--student", "resnet8", "--method", "kd", "--method", "dkd"]
    code, _, err = typed(*words, "--set", "kd_weight=1e38")  # finite, and so are the weights; the logits are not
    assert code == 2
    assert re.fullmatch(r"kdbench: kd kd_weight=1e\+38 resnet8>resnet8 seed 1 failed: diverged in .*\n", err)
    assert len(list(Path("runs").glob("**/dkd/*/record.json"))) == 1


def test_every_cell_that_fails_is_a_line(typed: Typed, small: list[str]) -> None:
    """A mistake in a method, too, is a line that says where its traceback is, and hides no other failure."""
    write_own(Path("own"), loss='raise RuntimeError("a tree fell")')
    make_teacher(typed, small)
    words = ["train", *small, "--teacher", "resnet8", "--student", "resnet8", "--method", "mine", "--method", "kd"]
    code, _, err = typed("--methods", "own", *words, "--method", "ce", "--set", "kd.kd_weight=1e38")
    assert code == 1
    mine, kd = err.splitlines()
    (failure,) = Path("runs").glob("**/mine/*/failed.json")
    place = Path("own/mine.py").absolute()
    assert re.fullmatch(
        rf"kdbench: mine resnet8>resnet8 seed 1 failed: {place}, line \d+: RuntimeError: a tree fell; "
        rf"traceback: {failure}",
        mine,
    )
    assert "Traceback" in json.loads(failure.read_text())["traceback"]
    assert kd.startswith("kdbench: kd kd_weight=1e+38 resnet8>resnet8 seed 1 failed: diverged in ")
    assert len(list(Path("runs").glob("**/ce/*/record.json"))) == 2


def test_names_that_are_given_twice_are_one_cell(typed: Typed, small: list[str]) -> None:
    words = ["train", *small, "--student", "resnet8", "--student", "ResNet-8", "--method", "ce", "--method", "CE"]
    code, out, err = typed(*words, "--seed", "1", "--seed", "1")
    assert (code, err) == (0, "")
    assert len([line for line in out.splitlines() if "after 1 epoch" in line]) == 1
    assert "record: runs/" in out


def test_an_own_method_that_is_not_found_points_to_its_folder(typed: Typed) -> None:
    grid = {"protocol": "digits-demo-v1", "pairs": ["resnet20>resnet8"], "methods": ["ce", "mine"], "seeds": 1}
    Path("grid.toml").write_text(tomli_w.dumps(grid))
    for words in (["show", "mine"], ["validate", "mine"], ["grid", "plan", "grid.toml"]):
        code, _, err = typed(*words)
        assert (code, len(err.splitlines())) == (2, 1)
        assert "'kdbench --own DIR', in Python with the environment variable KDBENCH_OWN" in err


@pytest.mark.parametrize("folder", ["a [b] c", "r[/b]x", "x:cat:y", "it's"])
def test_brackets_and_quotes_of_paths_are_printed_as_typed(folder: str, typed: Typed, small: list[str]) -> None:
    """A hint is typed as it stands, and finds the same folder."""
    words = ["train", *small, "--student", "resnet8", "--method", "ce", "--seed", "1", "--seed", "2", "--runs", folder]
    code, out, err = typed(*words)
    assert (code, err) == (0, "")
    assert f"records: {folder}/" in out
    hint = shlex.split(re.search(r"type ['\"](kdbench .*)['\"] to compare", out)[1])  # type: ignore[index]
    assert hint == ["kdbench", "table", folder]
    assert typed(*hint[1:])[0] == 0
    assert shlex.quote(folder) in typed("teacher", "list", "--runs", folder)[1]


def test_what_new_says_to_type_next_finds_the_method(typed: Typed) -> None:
    Path("my own").mkdir()
    options = {"--own": ["new", "mine"], "--methods": ["--methods", "my own", "new", "other"]}
    for option, words in options.items():
        code, out, err = typed(*words, "--dir", "my own")
        assert (code, err) == (0, "")
        hints = [shlex.split(line) for line in out.splitlines() if line.startswith("  kdbench ")]
        assert len(hints) == 3
        assert all(hint[1:3] == [option, "my own"] for hint in hints)
    assert Path("my own/other.py").exists()  # a folder that holds nothing but methods stays one
    assert typed("--own", "my own", "show", "mine")[0] == typed("--methods", "my own", "show", "other")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ["table", "LONG"],
        ["report", "LONG"],
        ["teacher", "list", "--runs", "LONG"],
        ["cache", "list", "--runs", "LONG"],
        ["new", "mine", "--dir", "LONG"],
        ["grid", "plan", "LONG"],
        ["--methods", "LONG", "list", "methods"],
        ["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--runs", "LONG"],
        ["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--data", "LONG"],
    ],
)
def test_a_name_that_the_system_does_not_take_is_one_line(words: list[str], typed: Typed) -> None:
    code, _, err = typed(*(word.replace("LONG", "x" * 280) for word in words))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "File name too long" in err
