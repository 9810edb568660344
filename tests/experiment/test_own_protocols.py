"""Protocols of a user's own: files in a folder, that begin from a named one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cells import Typed

import kdbench
from kdbench.errors import UserError
from kdbench.experiment import own_folders
from kdbench.experiment.protocol import load_protocol, protocol_names
from kdbench.grid.code_copy import copy_code

MINE = """
base = "digits-demo-v1"
version = 3

[schedule]
epochs = 2
"""


@pytest.fixture
def protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of protocols in a folder that this process knows."""
    folder = tmp_path / "own" / "protocols"
    folder.mkdir(parents=True)
    monkeypatch.setenv(own_folders.OWN, str(folder.parent))
    return folder


def test_what_a_protocol_does_not_say_is_that_of_its_base(protocols: Path) -> None:
    (protocols / "mine-v1.toml").write_text(MINE)
    mine, base = load_protocol("mine-v1"), load_protocol("digits-demo-v1")
    assert "mine-v1" in protocol_names()
    assert mine.rules.values() == base.rules.values() | {"version": 3, "epochs": 2}
    assert mine.identity() == base.identity() | {"name": "mine-v1", "version": 3, "epochs": 2}
    assert (mine.baseline, mine.demo) == (base.baseline, base.demo)
    assert (mine.title, mine.source) == (
        "on the rules of digits-demo-v1",
        "mine-v1.toml, on the rules of digits-demo-v1",
    )
    assert mine.overrides() == {}


def test_a_base_may_have_a_base_and_tables_are_read_key_by_key(protocols: Path) -> None:
    (protocols / "first.toml").write_text('base = "cifar100-crd-v1"\n[accuracy]\nresnet20 = 69.5\n')
    (protocols / "second.toml").write_text('base = "First"\ntitle = "Mine"\n[optimizer]\nweight_decay = 1e-4\n')
    base, second = load_protocol("cifar100-crd-v1"), load_protocol("second")
    assert second.rules.values() == base.rules.values() | {"weight_decay": 1e-4}
    assert second.accuracy == base.accuracy | {"resnet20": 69.5}
    assert (second.title, second.source) == ("Mine", "second.toml, on the rules of first")


def test_another_optimiser_has_its_own_rates_and_of_another_schedule_lengths_are_kept(protocols: Path) -> None:
    (protocols / "mine.toml").write_text(
        'base = "cifar100-crd-v1"\n'
        '[optimizer]\nname = "AdamW"\nlearning_rate = 1e-3\nweight_decay = 0.05\nbetas = [0.9, 0.99]\n'
        '[schedule]\nname = "cosine"\nwarmup = 0.05\n'
    )
    rules = load_protocol("mine").rules
    assert (rules.optimizer.momentum, rules.optimizer.nesterov, rules.schedule.milestones) == (None, None, None)
    assert rules.optimizer.learning_rate_of("MobileNetV2") == 1e-3
    assert (rules.schedule.epochs, rules.schedule.batch_size) == (240, 64)


def test_a_kind_that_the_base_has_by_default_is_no_other_one(protocols: Path) -> None:
    (protocols / "mine.toml").write_text('base = "cifar100-crd-v1"\n[augmentation]\ncrop = "pad"\nflip = false\n')
    assert load_protocol("mine").rules.augmentation.pad == 4


def test_published_accuracies_are_those_of_the_data(protocols: Path) -> None:
    (protocols / "mine.toml").write_text(
        'base = "cifar100-crd-v1"\n[data]\ndataset = "cifar10"\nmean = [0.49, 0.48, 0.45]\nstd = [0.2, 0.2, 0.2]\n'
    )
    assert load_protocol("mine").accuracy == {}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine", 'base = "cifar100-crd-v2"', r"mine\.toml: base: unknown protocol 'cifar100-crd-v2': did you mean"),
        ("mine", "base = 3", r"mine\.toml: base must be the name of a protocol, not 3"),
        ("mine", 'base = "mine"', r"mine\.toml: base: mine > mine has no beginning: base one on another"),
        ("mine", 'base = "digits-demo-v1"\n[schedule]\nepoch = 2', r"mine\.toml: \[schedule\]: unknown key 'epoch'"),
        ("mine", 'base = "cifar100-crd-v1"\n[optimizer]\nname = "AdamW"', r"\[optimizer\]: learning_rate is missing"),
        ("mine", 'base = "digits-demo-v1"\nschedule = 2', r"mine\.toml: schedule must be a table, not 2"),
        ("mine", "version = one", r"mine\.toml is not TOML"),
        ("my rules", MINE, r"the name of a protocol is letters, digits, '\.', '_' and '-': rename the file"),
        ("Cifar100_CRD_v1", MINE, r"protocol Cifar100_CRD_v1 of .* has the name of cifar100-crd-v1 of .*: rename it"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(name: str, text: str, message: str, protocols: Path) -> None:
    (protocols / f"{name}.toml").write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        load_protocol("mine")
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_not_there_is_one_line(typed: Typed, tmp_path: Path) -> None:
    code, _, err = typed("--own", "nowhere", "list", "protocols")
    assert (code, err) == (
        2,
        f"kdbench: folder {tmp_path / 'nowhere'} does not exist: --own and KDBENCH_OWN name folders with your own "
        "methods/, networks/ and protocols/, and 'kdbench new network NAME --dir DIR' makes one\n",
    )
    (tmp_path / "empty").mkdir()
    code, _, err = typed("--own", "empty", "list", "methods")
    assert code == 2
    assert "empty has no folder methods, networks or protocols" in err


def test_a_grid_trains_under_it_and_tables_do_not_need_its_file(typed: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "my own" / "protocols"
    folder.mkdir(parents=True)
    (folder / "mine-v1.toml").write_text(MINE)
    own = ("--own", "my own")
    assert "mine-v1" in typed(*own, "list", "protocols")[1]
    assert "mine-v1" not in typed("list", "protocols")[1]
    (tmp_path / "grid.toml").write_text(
        'protocol = "mine-v1"\npairs = ["resnet8>resnet8"]\nmethods = ["ce", "kd"]\nseeds = 1\n'
    )
    code, out, err = typed(*own, "grid", "run", "grid.toml", "--device", "cpu")
    assert (code, err) == (0, "")
    assert "all done" in out
    assert re.search(r"^kd +[\d.]+ ", typed("table", "runs")[1], re.MULTILINE)
    (path,) = tmp_path.glob("runs/mine-v1/*/kd/*/record.json")
    record = json.loads(path.read_text())
    assert record["protocol"] == "mine-v1"
    assert record["config"]["protocol"]["epochs"] == record["epochs"] == 2
    code, _, err = typed("grid", "run", "grid.toml")
    assert code == 2
    assert (
        "one of your own is found with 'kdbench --own DIR', in Python with the environment variable KDBENCH_OWN" in err
    )


def test_a_submission_copies_it(protocols: Path, tmp_path: Path) -> None:
    (protocols / "mine-v1.toml").write_text(MINE)
    (protocols.parent / "methods").mkdir()
    (protocols.parent / "methods" / "_blocks.py").write_text("WIDTH = 3\n")
    lines = copy_code(tmp_path / "submission")
    (exported,) = (line.removeprefix("export KDBENCH_OWN=") for line in lines if "KDBENCH_OWN" in line)
    assert (Path(exported) / "protocols" / "mine-v1.toml").read_text() == MINE
    assert (Path(exported) / "methods" / "_blocks.py").exists()


def test_lists_name_a_file_that_cannot_be_used_and_show_the_others(protocols: Path, typed: Typed) -> None:
    (protocols / "broken-v1.toml").write_text("base = 7\n")
    for what in ("protocols", "datasets"):
        code, out, _ = typed("list", what)
        assert code == 0
        assert "cifar100-crd-v1" in out
        assert f"broken: {protocols / 'broken-v1.toml'}" in out


def test_sessions_know_it(protocols: Path, tmp_path: Path) -> None:
    (protocols / "mine-v1.toml").write_text(MINE)
    session = kdbench.Session.open("Mine_v1", runs=tmp_path / "runs", device="cpu")
    assert session.cell(method="ce", student="resnet8", seed=1).identity()["protocol"]["name"] == "mine-v1"
