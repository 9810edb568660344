"""Cells of every kind are trained again as they were: cached, pre-trained, of one's own code, with images held out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cells import Typed
from own_files import HELD_OUT_RULES, write_own

from kdbench.engine.checks.small import tiny_arrays
from kdbench.engine.session import Session
from kdbench.experiment import own_folders


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, code of a user's own, and runs of two protocols and two sets of data."""
    place = tmp_path_factory.mktemp("kinds")
    for folder in ("own/protocols", "own/methods"):
        (place / folder).mkdir(parents=True)
    (place / "own/protocols/held-out-v1.toml").write_text(HELD_OUT_RULES)
    write_own(place / "own/methods")
    arrays = tiny_arrays()
    np.savez(place / "one.npz", **arrays)
    np.savez(place / "two.npz", **{name: values[::-1] for name, values in arrays.items()})
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(own_folders.OWN, str(place / "own"))
        for protocol, file, methods in (
            ("held-out-v1", "one.npz", ("ce", "kd", "mine")),
            ("digits-demo-v2", "two.npz", ("ft", "kd")),
        ):
            session = Session.open(protocol, data=f"npz:{place / file}", epochs=2, runs=place / "runs", device="cpu")
            teacher = session.train_teacher("resnet8").spec
            cells = [session.cell(method=name, teacher=teacher, student="resnet8", seed=1) for name in methods]
            assert all(isinstance(record, dict) for record in session.run_all(cells, cache="on"))
    return place


@pytest.fixture
def here(place: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place, tmp_path, dirs_exist_ok=True))


def test_each_kind_is_trained_again_to_the_digit(typed: Typed, here: Path) -> None:
    data = ["--data", f"npz:{here / 'one.npz'}", "--data", f"npz:{here / 'two.npz'}"]
    code, out, err = typed("--own", "own", "verify", "runs", *data, "--retrain", 9, "--epochs", 9)
    assert (code, err) == (0, "")
    assert "7 cells of 7, drawn with" in out
    assert out.count("final weights are equal; digit for digit") == 7
    assert "not checked" not in out.partition("Trained again")[2]


def test_code_of_ones_own_must_be_here_and_as_it_was(typed: Typed, here: Path) -> None:
    code, out, _ = typed("verify", "runs")
    assert code == 0, out
    assert "method mine is not one of kdbench: name the folder that has it with --own" in out
    (here / "own/methods/mine.py").write_text((here / "own/methods/mine.py").read_text() + "\n# changed\n")
    code, out, _ = typed("--own", "own", "verify", "runs")
    assert code == 1
    assert "mine.py is not the code that the cell was run with" in out


def test_cells_whose_data_are_not_named_are_not_drawn_from(typed: Typed, here: Path) -> None:
    code, out, _ = typed("verify", "runs", "--data", f"npz:{here / 'two.npz'}", "--retrain", 9, "--epochs", 1)
    assert code == 0, out
    assert out.count("is not its data: name those with --data") >= 3
