"""What a cell's last evaluation leaves: predictions beside the record, and counts of each class in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cells import Typed, make_run
from sklearn.metrics import balanced_accuracy_score, f1_score

from kdbench.cli import grid as grid_command
from kdbench.engine.outcomes import Outcome
from kdbench.engine.run import Run
from kdbench.engine.train import train_cells
from kdbench.experiment.folder import PREDICTIONS, RECORD, WEIGHTS, parse_record
from kdbench.experiment.predictions import read_predictions
from kdbench.grid.grid import Grid
from kdbench.grid.submissions import Launch, Submission, new_folder, read_submissions
from kdbench.models.evaluate import predict
from kdbench.models.weights import read_weights


def train(run: Run) -> Outcome:
    (outcome,) = train_cells([run.cell], lambda: run.data, lambda _: run.source, run.options)
    return outcome


def test_predictions_are_those_of_the_weights_and_agree_with_the_record(tiny_npz: Path, tmp_path: Path) -> None:
    run = make_run(tiny_npz, tmp_path, "kd")
    record = train(run)
    assert isinstance(record, dict)
    assert parse_record(run.folder / RECORD) == record
    kept = read_predictions(run.folder)
    assert kept
    run.student.backbone.load_state_dict(read_weights(run.folder / WEIGHTS))
    logits = predict(run.student, run.data.evaluation)
    assert torch.from_numpy(kept.logits).equal(logits.half())
    assert kept.predicted.tolist() == logits.argmax(1).tolist()
    assert kept.labels.tolist() == run.data.dataset.test_labels.tolist()
    assert record["top1"] == 100 * np.mean(kept.labels == kept.predicted)
    assert record["balanced_accuracy"] == pytest.approx(100 * balanced_accuracy_score(kept.labels, kept.predicted))
    assert record["macro_f1"] == pytest.approx(100 * f1_score(kept.labels, kept.predicted, average="macro"))
    matrix = kept.confusion()
    assert record["per_class"] == {"correct": matrix.diagonal().tolist(), "images": matrix.sum(1).tolist()}


def test_without_predictions_nothing_is_left_of_them(tiny_npz: Path, tmp_path: Path) -> None:
    run = make_run(tiny_npz, tmp_path, "ce")
    with_predictions = train(run)
    (run.folder / RECORD).unlink()
    run.options = replace(run.options, predictions=False)
    record = train(run)
    assert isinstance(record, dict)
    assert isinstance(with_predictions, dict)
    assert not (run.folder / PREDICTIONS).exists()
    assert "predictions" not in record
    assert record["weights"] == with_predictions["weights"]
    assert record["per_class"] == with_predictions["per_class"]


def test_the_switch_reaches_jobs_and_their_next_start(
    typed: Typed, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = f'data = "npz:{tiny_npz}"', 'pairs = ["resnet8>resnet8"]', 'methods = ["ce"]', "seeds = 1"
    (tmp_path / "g.toml").write_text("\n".join(['protocol = "digits-demo-v1"', *lines]))
    launches: list[Launch] = []
    grids: list[Grid] = []
    monkeypatch.setattr(grid_command, "start", lambda _1, _2, _3, launch, **_: launches.append(launch))
    monkeypatch.setattr(grid_command, "cells_to_run", lambda opened, **_: grids.append(opened.grid))
    for command in (["run"], ["submit", "--cluster", "local"]):
        for switch in ([], ["--no-predictions"]):
            code, _, err = typed("grid", command[0], "g.toml", *command[1:], *switch)
            assert code == 0, err
    assert [launch.predictions for launch in launches] == [True, False, True, False]
    assert [launch.session(grids[0])["predictions"] for launch in launches] == [True, False, True, False]
    folder, launch = new_folder(grids[0], "local"), launches[-1]
    Submission(folder=folder, launcher="local", cluster="local", profile={}, launch=launch, jobs=()).write()
    (again,), _ = read_submissions(grids[0])
    assert again.launch == launch
