"""When losses and accuracies of first epochs that were trained again are the same as those of a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdbench.experiment.folder import METRICS
from kdbench.verify.findings import Verdict
from kdbench.verify.first_epochs import Trained, compare
from kdbench.verify.stored import StoredCell

LOSSES = [{"ce": 2.25, "kd": 40.0}, {"ce": 2.0, "kd": 30.0}]
ROW = {"epoch": 1, "top1": 50.0, "nll": 1.5}


def cell(folder: Path, **record: Any) -> StoredCell:
    (folder / METRICS).write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"epoch": 2}) + "\n")
    return StoredCell(folder, {"first_losses": LOSSES, "weights": "w" * 64} | record, None)


def trained(
    losses: list[dict[str, float]], row: dict[str, Any], *disagreements: str, weights: str | None = None
) -> Trained:
    return Trained(losses, {METRICS: [row]}, weights, list(disagreements))


def shifted(by: float, term: str = "ce") -> list[dict[str, float]]:
    return [LOSSES[0], LOSSES[1] | {term: LOSSES[1][term] + by}]


OTHER = "threads 2, there 4"
CASES: dict[str, tuple[Trained, Verdict, str]] = {
    "equal": (trained(LOSSES, ROW), "same", "steps are equal; epoch 1: 50.00 %, equal; digit for digit"),
    "a last digit": (trained(shifted(1e-12), ROW), "differs", "all that decides the digits agrees"),
    "a last digit of a metric": (trained(LOSSES, ROW | {"nll": 1.5 + 1e-12}), "differs", "all that decides the digits"),
    "a last digit elsewhere": (trained(shifted(1e-12), ROW, OTHER), "same", OTHER),
    "within the tolerance": (trained(shifted(9e-4), ROW, OTHER), "same", "2 steps differ by 4.5e-04 at most"),
    "beyond the tolerance": (trained(shifted(2.1e-3), ROW, OTHER), "differs", "differ by 1.0e-03 at most"),
    "a large loss, relative": (trained(shifted(0.02, "kd"), ROW, OTHER), "same", "differ by 6.7e-04 at most"),
    "other accuracies elsewhere": (trained(LOSSES, ROW | {"top1": 40.0}, OTHER), "same", "40.00 %, recorded 50.00 %"),
    "other terms": (trained([LOSSES[0], {"ce": 2.0}], ROW, OTHER), "differs", "differ by inf"),
    "a step too many": (trained([*LOSSES, LOSSES[0]], ROW, OTHER), "differs", "differ by inf"),
    "other final weights": (trained(LOSSES, ROW, weights="v" * 64), "differs", "final weights are others"),
    "the final weights": (trained(LOSSES, ROW, weights="w" * 64), "same", "final weights are equal; digit for digit"),
}


@pytest.mark.parametrize("name", CASES)
def test_digits_are_judged_where_all_agrees_and_first_losses_elsewhere(name: str, tmp_path: Path) -> None:
    again, expected, words = CASES[name]
    verdict, text = compare(cell(tmp_path), again)
    assert verdict == expected, text
    assert words in text


def test_records_of_earlier_versions_are_judged_by_their_digits_alone(tmp_path: Path) -> None:
    """They keep no losses of the first steps."""
    old = cell(tmp_path, first_losses=[])
    assert compare(old, trained(LOSSES, ROW))[0] == "same"
    assert compare(old, trained(LOSSES, ROW | {"top1": 49.0}))[0] == "differs"
    verdict, text = compare(old, trained(LOSSES, ROW | {"top1": 49.0}, OTHER))
    assert verdict == "not checked"
    assert "keeps no losses of the first steps" in text


def test_without_metrics_and_losses_nothing_is_judged(tmp_path: Path) -> None:
    old = cell(tmp_path, first_losses=[])
    (tmp_path / METRICS).unlink()
    assert compare(old, trained(LOSSES, ROW))[0] == "not checked"
