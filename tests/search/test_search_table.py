"""What the table ``[search]`` of a grid's file may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cells import Typed
from searched_grids import GRID, write_search

from kdbench.grid.file import read_grid
from kdbench.space import among, linear, log

FULL = {
    "trials": 8,
    "studies": 2,
    "on": ["resnet20>resnet8"],
    "rungs": [1, 3],
    "space": {
        "kd": {
            "kd_weight": {"low": 0.5, "high": 5, "scale": "log"},
            "temperature": {"low": 2, "high": 8},
            "ce_weight": [0.0, 1.0],
        }
    },
    "rules": {"learning_rate": {"low": 0.3, "high": 3, "scale": "log"}, "weight_decay": [1, 10]},
}
PAIRS = ["resnet14>resnet8", "resnet20>resnet8"]


def test_every_key(tmp_path: Path) -> None:
    search = read_grid(write_search(tmp_path / "grid.toml", FULL, pairs=PAIRS)).search
    assert search
    assert (search.trials, search.studies, search.rungs, list(map(str, search.on))) == (8, 2, (1, 3), PAIRS[1:])
    assert search.spaces == {
        "kd": {"kd_weight": log(0.5, 5), "temperature": linear(2, 8), "ce_weight": among(0.0, 1.0)}
    }
    assert search.rules == {"learning_rate": log(0.3, 3), "weight_decay": among(1, 10)}


def test_what_is_not_said(tmp_path: Path) -> None:
    """All pairs, 16 trials, one study, and the spaces that methods declare; no rules."""
    path = write_search(tmp_path / "grid.toml", pairs=PAIRS, methods=["kd", "ce"])
    path.write_text(path.read_text().replace("trials = 4\n", ""))
    search = read_grid(path).search
    assert search
    assert (search.trials, search.studies, search.rungs, list(map(str, search.on))) == (16, 1, (1,), PAIRS)
    assert {method: bool(space) for method, space in search.spaces.items()} == {"kd": True, "ce": True}
    assert search.rules == {}


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"trails": 3}, "unknown key 'trails': known are trials, studies, on, epochs, rungs, space, rules"),
        ({"trials": 0}, "trials must be"),
        ({"trials": 1001}, "trials must be"),
        ({"trials": 2.5}, "trials must be"),
        ({"trials": True}, "trials must be"),
        ({"trials": "many"}, "trials must be"),
        ({"studies": 0}, "studies must be"),
        ({"studies": 101}, "studies must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"epochs": "x"}, "epochs must be"),
        ({"rungs": []}, "rungs must be a list of epochs such as [15, 60]"),
        ({"rungs": 3}, "rungs must be a list"),
        ({"rungs": [3, 0]}, "rungs must be"),
        ({"rungs": [3, 3]}, "rungs must grow"),
        ({"on": []}, "on must be a list of pairs of this grid"),
        ({"on": "resnet14>resnet8"}, "on must be a list"),
        ({"on": ["resnet20>resnet8"]}, "the pairs of this grid are resnet14>resnet8"),
        ({"on": ["resnet41>resnet8"]}, "did you mean"),
        ({"space": 3}, "space must be a table, [search.space]"),
        ({"space": {"dkd": {}}}, "the methods of this grid are kd"),
        ({"space": {"kd": 3}}, "space of kd must be a table"),
        ({"space": {"kd": {"temprature": [1, 2]}}}, "did you mean temperature"),
        ({"space": {"kd": {"temperature": 3}}}, 'temperature must be {low = 0.1, high = 10, scale = "log"} or a list'),
        ({"space": {"kd": {"temperature": {"low": 5}}}}, "temperature must be"),
        ({"space": {"kd": {"temperature": {"low": "a", "high": "b"}}}}, "temperature must be"),
        ({"space": {"kd": {"temperature": {"low": 1, "high": 2, "scale": "square"}}}}, "temperature must be"),
        ({"space": {"kd": {"temperature": {"low": 5, "high": 1}}}}, "from a smaller to a larger number"),
        ({"space": {"kd": {"temperature": {"low": 0, "high": 1, "scale": "log"}}}}, "from a smaller to a larger"),
        ({"space": {"kd": {"temperature": [1]}}}, "two different values or more"),
        ({"space": {"kd": {"temperature": [1, 1]}}}, "two different values or more"),
        ({"space": {"kd": {"temperature": [[1], [2]]}}}, "temperature"),
        ({"space": {"kd": {"temperature": [-1, 2]}}}, "temperature"),
        ({"space": {"kd": {"temperature": ["warm", "hot"]}}}, "temperature"),
        ({"rules": 3}, "rules must be a table, [search.rules]"),
        ({"rules": {"momentum": [0.5, 1]}}, "a search knows learning_rate and weight_decay"),
        ({"rules": {"learning_rate": [0, 1]}}, "what the protocol's is multiplied with, numbers > 0"),
        ({"rules": {"learning_rate": ["a", "b"]}}, "what the protocol's is multiplied with"),
        ({"rules": {"learning_rate": {"low": -1, "high": 1}}}, "what the protocol's is multiplied with"),
    ],
)
def test_mistakes_are_one_line(search: dict[str, Any], words: str, typed: Typed) -> None:
    """And nothing is written."""
    path = write_search(Path("grid.toml"), search)
    code, out, err = typed("grid", "plan", path)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith(f"kdbench: {path}: [search")
    assert words in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({"search": 3}, "[search] 3: must be a table"),
        ({"search": {"trials": 3}}, "give the epochs of the trials as epochs = 60, or as rungs = [15, 60]"),
        ({"search": {"epochs": 3, "rungs": [1, 3]}}, "one of the two"),
        ({"seeds": [1, 10002]}, "seed 10002 is one of the search"),
        ({"method": {"kd": {"temperature": [2.0, 4.0]}}}, "so [method.kd] has one value of temperature, its default"),
    ],
)
def test_lines_that_do_not_go_with_a_search(lines: dict[str, Any], words: str, typed: Typed) -> None:
    Path("grid.toml").write_text(tomli_w.dumps(GRID | lines))
    code, out, err = typed("grid", "run", "grid.toml")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err


def test_a_search_of_too_many_cells(typed: Typed) -> None:
    write_search(Path("grid.toml"), {"trials": 1000, "studies": 100}, pairs=PAIRS, methods=["ce", "kd"])
    code, _, err = typed("grid", "plan", "grid.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert "pairs, methods, settings, seeds and trials make 400,008 cells, but a grid has at most 200,000" in err
