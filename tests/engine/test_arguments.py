"""Values from Python: numbers of NumPy are taken, and everything else is refused before a folder is made."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kdbench
from kdbench import UserError
from kdbench.engine.session import Session
from kdbench.experiment.cell import lockstep_groups
from kdbench.experiment.settings import resolve_settings

GOOD: dict[str, Any] = {"student": "resnet8", "method": "ce", "device": "cpu", "epochs": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 1.5}, "--epochs must be a whole number, not 1.5"),
        ({"epochs": True}, "--epochs must be a whole number, not True"),
        ({"epochs": "1"}, "--epochs must be a whole number, not '1'"),
        ({"epochs": 10**30}, "--epochs must be"),
        ({"epochs": 10**9}, "epochs must be at most 1000000, not 1000000000"),
        ({"seed": 1.0}, "--seed must be a whole number, not 1.0"),
        ({"seed": True}, "--seed must be a whole number, not True"),
        ({"seed": "1"}, "--seed must be a whole number, not '1'"),
        ({"seed": -1}, "--seed must be between 0 and 2147483647, not -1"),
        ({"seed": 2**31}, "--seed must be between 0 and 2147483647, not 2147483648"),
        ({"precision": "float16"}, "precision must be fp32, bf16 or fp16, not 'float16'"),
        ({"precision": 16}, "precision must be fp32, bf16 or fp16, not 16"),
        ({"save_every": "60"}, "--save-every must be a number, not '60'"),
        ({"save_every": math.nan}, "--save-every must be a finite number, not nan"),
        ({"save_every": -5}, "--save-every must be at least 0, not -5"),
        ({"data": 5}, "--data must be a text, not 5"),
        ({"runs": None}, "--runs must be a text, not None"),
        ({"device": 0}, "--device must be a text, not 0"),
        ({"download": "no"}, "--download must be True or False, not 'no'"),
        ({"method": ["ce", "kd"]}, "--method must be a text, not ['ce', 'kd']"),
        ({"student": None}, "--student must be a text, not None"),
        ({"cache": "yes"}, "--cache must be auto or on or off or ready, not 'yes'"),
        ({"cache": True}, "--cache must be auto or on or off or ready, not True"),
        ({"teacher": "@"}, "'@' names no teacher: type NETWORK, NETWORK@HASH if there are several"),
        ({"teacher": "@c3", "method": "kd"}, "'@c3' names no teacher"),
        ({"teacher": 3}, "--teacher must be a text, not 3"),
        ({"settings": ["alpha=1"]}, "settings of method ce must be a dictionary"),
    ],
)
def test_a_wrong_value_is_one_line_and_leaves_nothing(
    changes: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        kdbench.train("digits-demo-v1", **GOOD | changes)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_taken(tmp_path: Path) -> None:
    session = Session.open("digits-demo-v1", runs=tmp_path, epochs=np.int64(2), device="cpu", save_every=np.float32(1))
    assert type(session.protocol.epochs) is int
    one, other = (session.teacher_cell("resnet8", seed=seed) for seed in (np.int64(1), 1))
    assert one.id == other.id
    assert type(one.seed) is int
    chosen = {"alpha": np.float64(2.0), "temperature": np.int32(3)}
    config = resolve_settings("dkd", dataset="x", teacher=None, student="resnet8", chosen=chosen).config
    assert (config.alpha, config.temperature) == (2.0, 3.0)
    assert {type(config.alpha), type(config.temperature)} == {float}


@pytest.mark.parametrize("together", [0, -1, 1.5, True, "2"])
def test_a_wrong_number_of_cells_in_lockstep_drops_no_cell(together: Any) -> None:
    with pytest.raises(UserError, match="--lockstep must be "):
        lockstep_groups([], together)
