"""The commands as a user types them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from cells import Typed
from test_teachers import make_teacher
from typer.testing import CliRunner

import kdbench
from kdbench.cli.app import app
from kdbench.cli.options import next_command
from kdbench.data.datasets import load_dataset
from kdbench.experiment import own_folders
from kdbench.experiment.protocol import load_protocol


def test_train_twice_then_table(typed: Typed, small: list[str]) -> None:
    make_teacher(typed, small)
    words = ["train", *small, "--teacher", "RESNET8", "--student", "WRN-16-1", "--method", "DKD", "--set", "beta=2"]
    code, out, err = typed(*words)
    assert code == 0, err
    (path,) = Path("runs").glob("digits-demo-v1/resnet8-wrn_16_1/dkd/seed1-*/record.json")
    record = json.loads(path.read_bytes())
    assert record["settings"]["beta"] == 2.0
    assert record["settings_chosen"] == {"beta": 2.0}
    assert record["overrides"].keys() == {"dataset", "epochs"}
    assert record["teacher"]["network"] == "resnet8"
    assert record["cost"]["teacher_forwards"] == record["cost"]["student_views"] == 42
    assert record["test_set"] == {"images": 30, "largest_class": 10}
    assert {"top1", "top5", "nll", "ece", "agreement", "teacher_kl", "best_on_test", "weights"} <= record.keys()
    assert {p.name for p in path.parent.iterdir()} >= {"config.toml", "metrics.jsonl", "model.safetensors"}
    code, out, err = typed(*words)
    assert code == 0
    assert "already finished" in out
    code, out, err = typed("train", *small, "--student", "wrn_16_1", "--method", "ce")
    assert code == 0, err
    code, out, err = typed("table", "runs", "--format", "markdown")
    assert code == 0, err
    assert re.search(r"\| dkd beta=2.0 +\|", out)
    assert "resnet8 (" in out
    for form in ("terminal", "csv"):
        assert typed("table", "runs", "--format", form)[0] == 0


def test_several_cells_of_one_command(typed: Typed, small: list[str]) -> None:
    make_teacher(typed, small)
    words = ["train", *small, "--teacher", "resnet8", "--student", "resnet8", "--student", "wrn_16_1"]
    words += ["--method", "ce", "--method", "kd", "--set", "temperature=2", "--set", "temperature=4", "--seed", "1"]
    code, out, err = typed(*words, "--seed", "2", "--lockstep", "4")
    assert code == 0, err
    records = [json.loads(path.read_bytes()) for path in Path("runs").glob("**/seed[12]-*/record.json")]
    found = sorted((r["method"], r["student"], r["seed"], r["settings"].get("temperature", 0)) for r in records)
    students, seeds = ("resnet8", "wrn_16_1"), (1, 2)
    assert found == sorted(
        [("ce", student, seed, 0) for student in students for seed in seeds]
        + [("kd", student, seed, t) for student in students for seed in seeds for t in (2.0, 4.0)]
    )
    assert sorted(r["cost"]["cells_together"] for r in records) == [2, 2, 2, 2, *[4] * 8]
    assert "kd temperature=2.0 resnet8>wrn_16_1 seed 2: " in out
    assert "type 'kdbench table runs' to compare them" in out
    code, out, _ = typed(*words)
    assert code == 0
    assert out.count("already finished") == 6


def test_the_earlier_name_of_lockstep_is_still_an_option(typed: Typed, small: list[str]) -> None:
    words = ["train", *small, "--student", "resnet8", "--method", "ce"]
    assert typed(*words, "--together", "1", "--seed", "1", "--seed", "2")[0] == 0
    records = [json.loads(path.read_bytes()) for path in Path("runs").glob("**/record.json")]
    assert [record["cost"]["cells_together"] for record in records] == [1, 1]
    assert typed("grid", "run", "nothing.toml", "--together", "2")[2].startswith("kdbench: file nothing.toml does not")
    out = typed("train", "--help")[1]
    assert "--lockstep" in out
    assert "--together" not in out


@pytest.mark.parametrize(
    ("typed_words", "command"),
    [
        ([], "'kdbench grid retry g.toml'"),
        (["--runs", "r"], "'kdbench grid retry g.toml --runs r'"),
        (["--data", "npz:a b.npz", "--watch"], "\"kdbench grid retry g.toml --data 'npz:a b.npz'\""),
    ],
)
def test_the_next_command_has_the_options_that_were_given(
    typed_words: list[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spelled = []

    def catch(context: typer.Context, *_: Any, **__: Any) -> None:
        spelled.append(next_command(context, "grid", "retry", "g.toml", keep=("runs", "data")))
        raise typer.Exit

    monkeypatch.setattr("kdbench.cli.grid.open_grid", catch)
    monkeypatch.setenv(own_folders.METHODS, "")  # what --methods sets is undone
    assert CliRunner().invoke(app, ["grid", "status", "g.toml", *typed_words]).exit_code == 0
    assert CliRunner().invoke(app, ["--methods", "o w", "grid", "status", "g.toml"]).exit_code == 0
    assert spelled == [command, "\"kdbench --methods 'o w' grid retry g.toml\""]


def test_a_grid_without_slurm_imports_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(
        'protocol = "digits-demo-v1"\npairs = ["resnet14>resnet8"]\nmethods = ["kd"]\nseeds = 1\n'
    )
    code = (
        "import atexit, sys; from kdbench import cli; sys.argv = ['kdbench', 'grid', sys.argv[1], 'g.toml'];"
        "atexit.register(lambda: print([name for name in sys.modules if 'kdbench.slurm' in name])); cli.main()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "SLURM_JOB_ID"} | {"PATH": str(tmp_path)}
    for command in ("plan", "status"):
        done = subprocess.run(
            [sys.executable, "-c", code, command],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "1 cell: 1 to do" in done.stdout
        assert done.stdout.endswith("[]\n")


def test_caches_are_built_listed_and_pruned(typed: Typed, small: list[str]) -> None:
    code, out, _ = typed("cache", "list")
    assert code == 0
    assert "no teacher caches in runs" in out
    make_teacher(typed, small)
    words = ["cache", "build", *small, "--teacher", "resnet8", "--seed", "1", "--seed", "2"]
    code, out, err = typed(*words, "--method", "kd", "--method", "PCKD")
    assert code == 0, err
    assert re.search(
        r"cache of resnet8@[0-9a-f]{8}: \d+ views to compute, [\d.]+ kB to write to runs/teacher-cache/", out
    )
    assert "holds all teacher outputs that kd, pckd will read" in out
    code, out, _ = typed("cache", "list")
    (folder,) = Path("runs/teacher-cache").iterdir()
    assert re.search(rf"{folder.name} +resnet8 [0-9a-f]{{8}} +fp32 +\d+ +logits, penultimate +1 +0 ", out)
    code, out, err = typed("train", *small, "--teacher", "resnet8", "--student", "vgg8", "--method", "kd")
    assert code == 0, err
    assert "to compute" not in out
    (record,) = Path("runs").glob("**/kd/*/record.json")
    assert json.loads(record.read_bytes())["cost"]["teacher_outputs"] == "cache"
    code, out, _ = typed("cache", "prune")
    assert (code, out) == (0, "0 B freed\n")
    (folder / "0123456789abcdef.partial").mkdir()
    assert "unfinished builds deleted" in typed("cache", "prune")[1]
    code, _, err = typed("cache", "prune", "nothing")
    assert (code, err) == (2, "kdbench: no cache nothing in runs: type 'kdbench cache list' to list those that exist\n")
    for teacher in Path("runs/digits-demo-v1/teachers").iterdir():
        teacher.rename(Path("elsewhere"))
    assert f"{folder.name}: deleted" in typed("cache", "prune")[1]
    assert not folder.exists()


def test_bench_prints_a_table_for_this_machine(typed: Typed) -> None:
    words = ["bench", "resnet14>resnet8", "--protocol", "digits-demo-v1", "--rounds", "1", "--seeds", "3"]
    code, out, err = typed(*words, "--method", "ce", "--method", "kd", "--method", "reviewkd", "--method", "pckd")
    assert code == 0, err
    assert "digits-demo-v1: resnet14 > resnet8 on " in out
    rows = re.findall(r"^(ce|kd|reviewkd|pckd) +(--|live|cache) +\d+ ", out, flags=re.MULTILINE)
    assert rows == [
        ("ce", "--"),
        ("kd", "live"),
        ("kd", "cache"),
        ("reviewkd", "live"),
        ("pckd", "live"),
        ("pckd", "cache"),
    ]
    assert "4 methods x 3 seeds x 12 epochs: " in out
    assert re.search(r"h to build the cache \(\d\d,\d+ views\)", out)


def test_the_same_from_python(tiny_npz: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"data": f"npz:{tiny_npz}", "epochs": 1, "runs": tmp_path, "device": "cpu"}
    record = kdbench.train("digits-demo-v1", student="resnet8", method="ce", **words)
    assert 0 <= record["top1"] <= 100
    session = kdbench.Session.open("digits-demo-v1", **words)
    card = session.train_teacher("resnet8", seed=1)
    assert card.accuracy == record["top1"]
    assert card.weights == record["weights"]
    taught = kdbench.train("digits-demo-v1", student="vgg8", teacher=card.spec, method="kd", **words)
    assert taught["teacher"] == {
        "network": "resnet8",
        "id": f"cell:{record['cell']}",
        "weights": record["weights"],
        "accuracy": record["top1"],
    }


def test_low_precision_and_seed_are_part_of_the_identity(tiny_npz: Path, tmp_path: Path) -> None:
    session = kdbench.Session.open("digits-demo-v1", data=f"npz:{tiny_npz}", epochs=1, runs=tmp_path)
    half = kdbench.Session.open("digits-demo-v1", data=f"npz:{tiny_npz}", epochs=1, precision="bf16", runs=tmp_path)
    ids = {s.cell(method="ce", student="resnet8", seed=seed).id for s in (session, half) for seed in (1, 2)}
    assert len(ids) == 4
    moved = kdbench.Session.open("digits-demo-v1", data=f"npz:{tiny_npz}", epochs=1, runs=tmp_path / "elsewhere")
    assert moved.cell(method="ce", student="resnet8", seed=1).id in ids


def test_a_terminated_command_saves_and_goes_on(typed: Typed, small: list[str], tmp_path: Path) -> None:
    words = ["train", *small[:-1], "400", "--student", "resnet8", "--method", "ce"]
    command = [sys.executable, "-m", "kdbench", *words, "--save-every", "0.2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/**/state")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "type the same command to resume" in err
    assert list(tmp_path.glob("runs/**/state"))


@pytest.mark.parametrize("what", ["methods", "networks", "datasets", "protocols", "pairs"])
def test_lists(what: str, typed: Typed) -> None:
    code, out, _ = typed("list", what)
    assert code == 0
    expected = {
        "methods": "reviewkd",
        "networks": "ShuffleNetV2",
        "datasets": "npz:FILE",
        "protocols": "cifar10-crd-v1",
        "pairs": "ResNet50>MobileNetV2",
    }
    assert expected[what] in out


@pytest.mark.parametrize("method", ["ce", "kd", "dkd", "crd", "reviewkd", "pckd"])
def test_show(method: str, typed: Typed) -> None:
    code, out, _ = typed("show", method.upper())
    assert code == 0
    if method == "ce":
        return
    assert re.search(r"arXiv:? ?\d{4}\.\d{5}|CVPR 2022", out)
    assert "ce_weight = 1.0" in out or "ce_weight = 0.1" in out or method == "pckd"
    if method == "pckd":
        assert re.search(r"delta = 1.0.*\n +our choice: ", out)
        assert "Where paper and code differ" in out


def test_a_subset_is_the_first_images_of_each_class(typed: Typed) -> None:
    code, out, err = typed("data", "subset", "digits", "part.npz", "--train-per-class", "7", "--test-per-class", "5")
    assert code == 0, err
    part, whole = load_dataset("npz:part.npz", Path()), load_dataset("digits", Path())
    assert part.fingerprint in out
    assert (len(part.train_labels), len(part.test_labels)) == (70, 50)
    keep = sorted(int(i) for c in range(10) for i in (whole.train_labels == c).nonzero().flatten()[:7])
    assert torch.equal(part.train_images, whole.train_images[keep])


def test_the_readme_names_the_protocol_files() -> None:
    assert load_protocol("CIFAR100 CRD v1").name == "cifar100-crd-v1"
