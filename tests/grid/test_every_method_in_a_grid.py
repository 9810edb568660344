"""A grid of every method on two pairs, from its plan to the tables of its records."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
import tomli_w
import torch
from cells import METHODS, REFUSED, Typed
from cells import PAIRS as CHECKED

from kdbench.analysis.records import read_records
from kdbench.experiment.registry import load_method

pytestmark = pytest.mark.once

PAIRS = ["resnet14>resnet8", "wrn_16_1>resnet8"]
"""Of one family, and of two that every method can work on."""
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


def write_grid(npz: Path, pairs: list[str]) -> None:
    settings = {name: chosen for name, chosen in METHODS.items() if chosen}
    grid = {"protocol": "digits-demo-v1", "pairs": pairs, "methods": list(METHODS), "seeds": 1, "epochs": 2}
    Path("grid.toml").write_text(tomli_w.dumps(grid | {"data": f"npz:{npz}", "method": settings}))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_every_method_runs_to_the_end_and_stands_in_the_tables(device: str, typed: Typed, tiny_npz: Path) -> None:
    """In lockstep; on a GPU as recorded steps."""
    write_grid(tiny_npz, PAIRS)
    words = ["--lockstep", len(METHODS), "--device", device, *(["--compile"] if device == "cuda" else [])]
    code, out, err = typed("grid", "run", "grid.toml", *words)
    assert (code, err) == (0, ""), out
    records = read_records(Path("runs"))
    assert not records.problems
    students = records.frame[records.frame["student"] == "resnet8"]
    assert Counter(students["method"]) == {m: len(PAIRS) if load_method(m).READS.teacher else 1 for m in METHODS}
    for command in ("leaderboard", "table", "compare"):
        code, out, err = typed(command, "runs", "--format", "csv")
        assert code == 0, err
        rows = {cell.split()[0] for row in csv.reader(out.splitlines()) for cell in row if cell.strip()}
        assert METHODS.keys() - {"ce"} <= rows, command


def test_a_plan_names_the_methods_that_a_pair_does_not_support(typed: Typed, tiny_npz: Path) -> None:
    write_grid(tiny_npz, [">".join(CHECKED["vit>cnn"])])
    code, out, err = typed("grid", "plan", "grid.toml")
    assert (code, err) == (0, "")
    unsupported = re.findall(r"^unsupported: (\w+) ", out, flags=re.MULTILINE)
    assert sorted(unsupported) == sorted(method for method, pair in REFUSED if pair == "vit>cnn")
