"""DOT over other methods: what of theirs counts, and how their settings are named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cells
import pytest
from cells import Typed, make_run, steps
from own_files import write_own

from kdbench.config import deciding
from kdbench.engine.run import Run
from kdbench.errors import UserError
from kdbench.experiment import own_folders
from kdbench.experiment.cell import Cell
from kdbench.experiment.logit_weights import logit_weights
from kdbench.experiment.protocol import load_protocol
from kdbench.experiment.registry import method_version, wraps_student
from kdbench.experiment.settings import Settings, parse_settings, resolve_settings
from kdbench.grid.file import read_grid
from kdbench.methods.dkd import DKD
from kdbench.methods.dot import DOT

pytestmark = pytest.mark.once
PAIR = {"dataset": "cifar100", "teacher": "resnet56", "student": "resnet20"}


def resolved(**chosen: Any) -> Settings:
    return resolve_settings("dot", **PAIR, chosen={key.replace("__", "."): value for key, value in chosen.items()})


def cell_of(settings: Settings) -> Cell:
    return Cell(
        protocol=load_protocol("cifar100-crd-v1"), teacher=None, student="resnet20", method="dot",
        method_version=method_version("dot", settings.values()), settings=settings, seed=1,
    )  # fmt: skip


def run_of(npz: Path, folder: Path, **settings: Any) -> Run:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(cells.METHODS, "dot", {key.replace("__", "."): value for key, value in settings.items()})
        return make_run(npz, folder, "dot")


def test_the_bases_recipe_and_what_is_chosen_of_it_count() -> None:
    settings = resolved(base="DKD", dkd__alpha=3)
    assert settings.config.base.config == DKD.Config(beta=2.0, alpha=3.0), "beta = 2 is DKD's recipe for the pair"
    assert settings.chosen == {"base": "dkd", "dkd.alpha": 3.0}
    assert "dkd: megvii-research/mdistiller" in settings.source
    identity = cell_of(settings).identity()["method"]
    assert {"base": "dkd", "delta": 0.075, "dkd.alpha": 3.0, "dkd.beta": 2.0}.items() <= identity.items()
    assert cell_of(resolved(base="dkd")).id != cell_of(settings).id
    # What a record holds is what resolves to the same cell, and so is what TOML's tables hold.
    again = {key: value for key, value in json.loads(json.dumps(identity)).items() if key not in {"name", "version"}}
    assert cell_of(resolve_settings("dot", **PAIR, chosen=again)).id == cell_of(settings).id
    nested = resolve_settings("dot", **PAIR, chosen={"base": "dkd", "dkd": {"alpha": 3.0}})
    assert nested == settings
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_the_version_is_raised_with_that_of_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cell_of(resolved(base="dkd"))
    monkeypatch.setattr(DKD, "VERSION", DKD.VERSION + 1)
    after = cell_of(resolved(base="dkd"))
    assert (after.method_version, after.id == before.id) == (before.method_version + 1, False)


def test_a_base_is_named_on_the_command_line() -> None:
    words = ["base=dkd", "dkd.beta=2", "delta=0.05"]
    assert parse_settings(words, ["dot"]) == {"dot": [{"base": "dkd", "dkd.beta": 2, "delta": 0.05}]}
    both = parse_settings(["dkd.beta=2", "dot.dkd.beta=3"], ["dot", "dkd"])
    assert both == {"dkd": [{"beta": 2}], "dot": [{"dkd.beta": 3}]}
    with pytest.raises(UserError, match="method dkd is not among those of --method"):
        parse_settings(["dkd.beta=2"], ["kd"])


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"dkd__beta": 2}, r"method dot has no setting 'dkd\.beta': its base is kd; set base=dkd"),
        ({"base": "dkd", "dkd__gamma": 2}, "method dkd has no setting 'gamma'"),
        ({"base": "dkd", "dkd__beta": -2}, "method dkd: beta must be >= 0"),
        ({"beta": 2}, r"its settings are base, delta, and those of its base as NAME\.SETTING"),
        ({"base": "nobody"}, "unknown method 'nobody'"),
        ({"base": 3}, "base of method dot must be|base must be the name of a method, not 3"),
        ({"base": "ce"}, "base = ce has no teacher"),
        ({"base": ""}, "unknown method ''"),
        ({"base": "dot"}, "method dot is built on another one itself"),
        ({"kd__temperature": 3, "KD__temperature": 4}, r"method dot is given kd\.temperature twice"),
        ({"kd": {"temperature": 3}, "kd__temperature": 4}, r"method dot is given kd\.temperature twice"),
        ({"base": "deepkd"}, "base = deepkd has momenta of its own"),
    ],
)
def test_what_cannot_be_is_one_line(chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        resolved(**chosen)
    assert "\n" not in str(refused.value)


def test_a_key_that_is_no_text_is_no_setting() -> None:
    keys: dict[Any, Any] = {1: 2}
    with pytest.raises(UserError, match="method dot has no setting 1"):
        resolve_settings("dot", **PAIR, chosen=keys)


def test_bases_of_a_grid_have_their_registered_names(tmp_path: Path) -> None:
    """What a search keeps fixed is compared with what records say."""
    file = tmp_path / "grid.toml"
    head = 'protocol = "cifar100-crd-v1"\npairs = ["resnet56>resnet20"]\nmethods = ["dot"]\nseeds = 1\n[method.dot]\n'
    file.write_text(head + 'base = "DKD"\nDkd.beta = 2.0\n')
    assert read_grid(file).settings == {"dot": {"base": ("dkd",), "dkd.beta": (2.0,)}}
    file.write_text(head + 'base = ["DKD", "dkd"]\n')
    with pytest.raises(UserError, match="base must be one value or a list of different values"):
        read_grid(file)


@pytest.mark.parametrize("read", [method_version, wraps_student])
def test_a_base_that_is_no_name_is_one_line(read: Callable[[str, dict[str, Any]], object]) -> None:
    with pytest.raises(UserError, match=r"base must be the name of a method, not \['kd'\]"):
        read("dot", {"base": ["kd"]})


def test_a_grid_has_the_settings_of_bases_as_tables(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(
        'protocol = "cifar100-crd-v1"\npairs = ["resnet56>resnet20"]\nmethods = ["dot"]\nseeds = 1\n'
        '[method.dot]\nbase = "dkd"\ndkd.beta = [2.0, 4.0]\n'
    )
    assert read_grid(file).settings == {"dot": {"base": ("dkd",), "dkd.beta": (2.0, 4.0)}}
    file.write_text(
        file.read_text().replace("[2.0, 4.0]", "2.0")
        + "[search]\nepochs = 2\n[search.space.dot]\ndelta = [0.05, 0.075]\ndkd.alpha = {low = 0.5, high = 2}\n"
    )
    search = read_grid(file).search
    assert search is not None
    assert {name: str(each) for name, each in search.spaces["dot"].items()} == {
        "delta": "0.05 or 0.075", "dkd.alpha": "0.5 to 2, linear",
    }  # fmt: skip
    file.write_text(file.read_text().replace("dkd.alpha", "dkd.alpa"))
    with pytest.raises(UserError, match=r"dkd\.alpa"):
        read_grid(file)


@pytest.mark.parametrize(
    "settings",
    [
        {"base": "sskd"},
        {"base": "catkd"},
        {"base": "wkdl"},
        {"base": "crld"},
        {"base": "crd", "crd__num_negatives": 20},
    ],
)
def test_views_phases_wrap_surveys_and_memory_are_the_bases(
    settings: dict[str, Any], tiny_npz: Path, tmp_path: Path
) -> None:
    """SSKD is pre-trained, CAT-KD changes the student, WKD-L surveys, CRLD has strong views, CRD remembers."""
    name = settings["base"]
    ours = run_of(tiny_npz, tmp_path, **settings)
    with pytest.MonkeyPatch.context() as patched:
        own = {key.partition("__")[2]: value for key, value in settings.items() if key != "base"}
        patched.setitem(cells.METHODS, name, own)
        theirs = make_run(tiny_npz, tmp_path, name)
    assert [(phase.epochs, phase.reads, len(phase.groups)) for phase in ours.phases] == [
        (phase.epochs, phase.reads, 1 if phase.pretraining else 2) for phase in theirs.phases
    ]
    assert ours.feed.plan == theirs.feed.plan
    assert ours.student.state_dict().keys() == theirs.student.state_dict().keys()
    assert {key.removeprefix("base.") for key in ours.method.state_dict()} == set(theirs.method.state_dict())
    assert ours.extra_parameters == theirs.extra_parameters
    for run in (ours, theirs):
        run.skip_pretraining()
        steps(run, 1)
    ours_first, theirs_first = (run.tally.read()[0] for run in (ours, theirs))
    assert ours_first == theirs_first, "before the first update nothing differs"


def test_surveys_of_two_bases_are_two_files(tiny_npz: Path, tmp_path: Path) -> None:
    run_of(tiny_npz, tmp_path, base="wkdl")
    make_run(tiny_npz, tmp_path, "wkdl")
    names = {file.name.rpartition("-")[0] for file in (tmp_path / "teacher-surveys").iterdir()}
    assert names == {"dot-wkdl", "wkdl"}


def test_its_logit_terms_weigh_as_the_bases() -> None:
    weight = logit_weights(["dot"])["dot"]
    assert weight.total(deciding(DOT.Config())) == (0.9, 0.9)
    assert weight.total(resolved(base="dkd").values()) == (3, 3), "alpha = 1 and beta = 2, DKD's recipe for the pair"
    assert weight.total({"base": "nobody"}) is None


def test_a_base_may_be_the_users_own(typed: Typed, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_own(Path("own"))
    monkeypatch.setenv(own_folders.METHODS, str(Path("own").absolute()))
    small = ["--protocol", "digits-demo-v1", "--data", f"npz:{tiny_npz}", "--epochs", "1"]
    code, _, err = typed("teacher", "train", *small, "--network", "resnet8")
    assert code == 0, err
    words = ["train", *small, "--teacher", "resnet8", "--student", "resnet8", "--method", "dot", "--set", "base=mine"]
    code, out, err = typed(*words)
    assert code == 0, out + err
    (path,) = Path("runs").glob("*/*/dot/*/record.json")
    record = json.loads(path.read_bytes())
    assert record["base_source"].startswith("file mine.py sha256:")
    assert record["method_source"].startswith("kdbench ")
    assert set(record["loss"]) == {"ce", "mine"}
    code, out, err = typed("verify", "runs", "--data", f"npz:{tiny_npz}")
    assert code == 0, out + err
    write_own(Path("own"), loss="mine = 2 * mine")
    _, out, _ = typed(*words)
    assert "mine.py has changed since this record was made: raise its VERSION" in out


@pytest.mark.parametrize(("base", "terms"), [("simkd", "feature"), ("ab", "ce")])
def test_a_base_whose_loss_is_one_group_is_named(base: str, terms: str, tiny_npz: Path, tmp_path: Path) -> None:
    """SimKD has no task's loss, and AB no other than that after its pre-training."""
    run = run_of(tiny_npz, tmp_path, base=base)
    run.skip_pretraining()
    with pytest.raises(UserError, match=f"the loss has the terms {terms}, and its gradients .* by ce and the others"):
        steps(run, 1)
