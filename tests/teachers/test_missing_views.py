"""Images that are not square and methods that rotate: these are refused, and nothing else suffers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from cells import Typed
from own_files import write_own

import kdbench
from kdbench.errors import UserError
from kdbench.experiment import own_folders
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import FAILURE
from kdbench.teachers.plan import CacheMode

REFUSAL = "images of 8 x 12 pixels cannot be turned by 1 quarter turns: a method that rotates needs square images"
GRID = """
protocol = "digits-demo-v1"
pairs = ["resnet8>resnet8"]
methods = ["ce", "kd", "pckd", "sskd"]
seeds = 2
epochs = 8
data = "npz:{data}"
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 12 test images of 8 x 12 pixels, in 3 classes."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("wide") / "wide.npz"
    train, test = (rng.integers(256, size=(number, 8, 12, 3), dtype=np.uint8) for number in (24, 12))
    np.savez(path, train_images=train, train_labels=np.arange(24) % 3, test_images=test, test_labels=np.arange(12) % 3)
    return path


@pytest.fixture
def session(wide: Path, tmp_path: Path) -> kdbench.Session:
    opened = kdbench.Session.open("digits-demo-v1", data=f"npz:{wide}", epochs=8, runs=tmp_path / "runs", device="cpu")
    opened.train_teacher("resnet8")
    return opened


def cells(session: kdbench.Session, *methods: str) -> list[Cell]:
    return [
        session.cell(method=name, student="resnet8", teacher="resnet8", seed=seed)
        for seed in (1, 2)
        for name in methods
    ]


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_only_what_rotates_is_refused(mode: CacheMode, session: kdbench.Session) -> None:
    wanted = cells(session, "pckd", "kd", "sskd", "ce")
    outcomes = session.run_all(wanted, cache=mode)
    for cell, outcome in zip(wanted, outcomes, strict=True):
        rotates = cell.method in ("pckd", "sskd")
        assert isinstance(outcome, UserError) == rotates, outcome
        assert (cell.folder(session.runs) / FAILURE).exists() == rotates
        if rotates:
            assert str(outcome) == f"{cell} cannot run: {REFUSAL}"
    sources = {outcome["cost"]["teacher_outputs"] for outcome in outcomes if isinstance(outcome, dict)}
    assert sources == {None, "live" if mode == "off" else "cache"}


def test_a_method_that_cannot_say_what_it_wants_fails_alone(
    session: kdbench.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = """
class Config(Method.Config):
    broken: bool = False
    "Whether views() fails."

@classmethod
def views(cls, config):
    if config.broken:
        raise RuntimeError("a tree fell")
    return cls.VIEWS
"""
    write_own(tmp_path / "own", more=more)
    monkeypatch.setenv(own_folders.METHODS, str(tmp_path / "own"))
    mine = session.cell(method="mine", student="resnet8", teacher="resnet8", seed=1, settings={"broken": True})
    outcomes = session.run_all([mine, *cells(session, "kd")], cache="on")
    assert [str(outcome) if isinstance(outcome, RuntimeError) else type(outcome) for outcome in outcomes] == [
        "a tree fell",
        dict,
        dict,
    ]


def test_a_cache_for_what_rotates_is_refused(typed: Typed, session: kdbench.Session, wide: Path) -> None:
    words = ["--protocol", "digits-demo-v1", "--teacher", "resnet8", "--data", f"npz:{wide}", "--epochs", "8"]
    code, _, error = typed("cache", "build", *words, "--method", "kd", "--method", "pckd")
    assert (code, error) == (2, f"kdbench: method pckd cannot run: {REFUSAL}; leave it out\n")
    assert typed("cache", "build", *words, "--method", "kd")[0] == 0


def test_a_plan_names_what_rotates_and_counts_no_cache_for_it(
    typed: Typed, session: kdbench.Session, wide: Path
) -> None:
    Path("g.toml").write_text(GRID.format(data=wide))
    code, out, _ = typed("grid", "plan", "g.toml")
    assert code == 0
    for method in ("pckd", "sskd"):
        assert f"unsupported: {method} resnet8>resnet8: {REFUSAL}" in out
    Path("plain.toml").write_text(GRID.format(data=wide).replace(', "pckd", "sskd"', ""))
    rows = [
        re.findall(r"^ *resnet8@.*views.*$|^ *resnet8.*kB.*$", typed("grid", "plan", name)[1], re.MULTILINE)
        for name in ("g.toml", "plain.toml")
    ]
    assert rows[0] == rows[1] != []
