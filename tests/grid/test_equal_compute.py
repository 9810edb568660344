"""Controls at equal compute: what a plan counts, what the file's line trains, and where the rows stand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import Typed
from estimated_grids import opened

from kdbench.analysis.records import Records, as_frame
from kdbench.analysis.splitting import split
from kdbench.cli.grid_needs import equal_lines
from kdbench.data.images import DataShape
from kdbench.engine.session import Session
from kdbench.grid import equal_compute
from kdbench.grid.equal_compute import Passes, equal_epochs
from kdbench.grid.grid import Grid
from kdbench.grid.shapes import data_shape, forward_flops

CIFAR = DataShape(50_000, (32, 32), 10)
PUBLISHED = {"resnet20": 40.81, "resnet32": 69.12, "resnet44": 97.44, "resnet56": 125.75}
"""Millions of multiplications with an addition, of github.com/chenyaofo/pytorch-cifar-models."""


def write(path: Path, tables: str = "", **lines: Any) -> Path:
    lines = {"protocol": "cifar100-crd-v1", "pairs": ["resnet56>resnet20"], "seeds": 1} | lines
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()) + tables)
    return path


@pytest.mark.parametrize("network", PUBLISHED)
def test_the_operations_of_networks_are_those_published(network: str) -> None:
    assert forward_flops(network, CIFAR) / 2e6 == pytest.approx(PUBLISHED[network], abs=0.006)


def test_attention_and_images_of_another_size_are_counted() -> None:
    """A transformer by hand: patches of 16 x 16 and a class token, and 6 blocks of width 64 with 192 in between."""
    tokens = 4 + 1
    block = tokens * (64 * 3 * 64 + 64 * 64 + 2 * 64 * 192) + 2 * tokens * tokens * 64
    assert forward_flops("timm:test_vit", CIFAR) == 2 * (4 * 64 * 16 * 16 * 3 + 6 * block)
    assert forward_flops("resnet20", replace(CIFAR, image_size=(64, 64))) == 4 * forward_flops("resnet20", CIFAR)


def test_passes_are_those_that_records_count(tmp_path: Path, tiny_npz: Path) -> None:
    lines = {"protocol": "digits-demo-v1", "pairs": ["resnet14>resnet8"], "epochs": 2}
    lines |= {"methods": ["ce", "kd", "pckd", "sskd"]}
    file = write(tmp_path / "a.toml", "[method.ce]\nepochs = [2, 3]\n", **lines)
    grid, _ = opened(file, tiny_npz, tmp_path / "runs")
    grid.session.train_teacher("resnet14")
    records = []
    for cell, record in zip(grid.cells, grid.session.run_all(grid.cells, cache="off"), strict=True):
        assert isinstance(record, dict), record
        records.append(record)
        passes, images = Passes.of(cell), 42
        assert record["cost"]["student_views"] == images * passes.student, cell
        assert record["cost"]["teacher_forwards"] == images * passes.teacher, cell
    longer = next(record for record in records if record["epochs"] == 3)
    # It is the cell that --epochs trains, to the last bit, although it began in the company of others.
    alike = Session.open("digits-demo-v1", data=f"npz:{tiny_npz}", epochs=3, runs=tmp_path / "other", device="cpu")
    record = alike.run(alike.cell(method="ce", student="resnet8", seed=1))
    assert (record["cell"], record["nll"], record["weights"]) == (longer["cell"], longer["nll"], longer["weights"])
    (comparison,) = split(Records(as_frame(records), [], []))
    assert [row.label for row in comparison.rows][:2] == ["ce", "ce (3 epochs)"]
    assert comparison.student_only == comparison.rows[0]


def test_a_plan_says_the_epochs_and_the_line_to_write(tmp_path: Path, typed: Typed) -> None:
    """By the published operations, and once more with the line in the file."""
    ratio = PUBLISHED["resnet56"] / PUBLISHED["resnet20"]
    file, methods = tmp_path / "a.toml", ["dkd", "ce", "pckd", "kd"]
    code, out, err = typed("grid", "plan", write(file, methods=methods), "--runs", tmp_path / "runs")
    assert code == 0, err
    once, turned = (int(number.replace(",", "")) for number in re.findall(r"for ([\d,]+) epochs", out))
    for views, number in ((1, once), (4, turned)):  # rounded up
        assert abs(number - views * 240 * (1 + ratio / 3) - 0.5) <= 0.6
    line = f"[method.ce] epochs = [240, {once}, {turned}]"
    costs = f"ce for {once:,} epochs costs as much as dkd, kd; for {turned:,} epochs as pckd"
    words = f"equal compute: resnet56>resnet20: {costs}"
    assert words in out.splitlines()
    assert f"equal compute: {line} in the file adds these rows to the table" in out.splitlines()
    write(file, line.replace("] ", "]\n", 1), methods=methods)
    code, out, err = typed("grid", "plan", file, "--runs", tmp_path / "runs")
    assert code == 0, err
    assert words in out.splitlines()
    assert "adds these rows" not in out
    assert "a.toml: cifar100-crd-v1, 6 cells: 6 to do" in out


def test_pairs_of_other_costs_have_other_epochs(tmp_path: Path) -> None:
    pairs = ["resnet56>resnet20", "resnet20>resnet20", "resnet56+resnet20>resnet20"]
    file = write(tmp_path / "a.toml", "[method.kd]\nepochs = [240, 480]\n", pairs=pairs, methods=["ce", "kd"])
    grid = Grid.open(file, runs=tmp_path / "runs", device="cpu")
    epochs, reasons = equal_epochs(grid, data_shape(grid.session))
    assert not reasons
    kd = {str(pair): [number for number, names in by.items() if names == ["kd"]] for pair, by in epochs.items()}
    # A teacher that is the student's network adds a third, and an ensemble the sum of its members.
    assert kd["resnet20>resnet20"] == [320]
    (single,), (both,) = kd["resnet56>resnet20"], next(each for pair, each in kd.items() if "+" in pair)
    assert abs(both - single - 80) <= 1
    assert epochs[grid.file.pairs[1]] == {320: ["kd"], 640: ["kd for 480 epochs"]}
    lines = equal_lines(grid)
    assert lines[-1] == (
        f"equal compute: [method.ce] epochs = [240, {single}, {2 * single - 1}] in a file for resnet56>resnet20 alone "
        "adds these rows to the table"
    )
    assert len([line for line in lines if "costs as much" in line]) == 3


def test_a_grid_without_other_methods_has_no_lines(tmp_path: Path) -> None:
    assert (
        equal_lines(Grid.open(write(tmp_path / "a.toml", methods=["ce"]), runs=tmp_path / "runs", device="cpu")) == []
    )


def test_a_network_whose_passes_cannot_be_counted_leaves_the_other_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(network: str, data: DataShape) -> int:
        if network == "resnet56":
            raise RuntimeError("it wants two images")
        return forward_flops(network, data)

    monkeypatch.setattr(equal_compute, "forward_flops", broken)
    file = write(tmp_path / "a.toml", pairs=["resnet56>resnet20", "resnet20>resnet20"], methods=["ce", "kd"])
    lines = equal_lines(Grid.open(file, runs=tmp_path / "runs", device="cpu"))
    assert lines[0] == "equal compute: resnet20>resnet20: ce for 320 epochs costs as much as kd"
    assert lines[-1] == "equal compute: resnet56>resnet20: unknown: it wants two images"
