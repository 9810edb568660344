"""A record keeps the losses of the first steps, one by one, for others to train them again."""

from __future__ import annotations

from pathlib import Path

import pytest
from cells import Seen, end_epoch, make_run, steps

from kdbench.engine.run import Run
from kdbench.engine.run_state import finish, resume, save
from kdbench.engine.tally import FIRST_STEPS
from kdbench.experiment.folder import STATE
from kdbench.utils.checkpoint import load_state, save_state


def small_batches(npz: Path, runs: Path, method: str) -> Run:
    """Return a run of two epochs of eleven steps."""
    return make_run(npz, runs, method, batch_size=4, learning_rate=1e-3)


def train_epoch(run: Run) -> None:
    steps(run, run.batches.steps - run.step)
    run.flush_losses()
    end_epoch(run)


@pytest.mark.parametrize("method", ["kd", "ft"])
def test_a_record_holds_the_losses_of_the_first_twenty_steps(method: str, tiny_npz: Path, tmp_path: Path) -> None:
    """``ft`` has pre-training, which comes first, with terms of its own."""
    run, seen = small_batches(tiny_npz, tmp_path, method), Seen()
    with run.observed(seen):
        while not run.done:
            train_epoch(run)
    assert len(seen.terms) > FIRST_STEPS == 20
    assert finish(run)["first_losses"] == seen.terms[:20]


def test_a_run_that_was_stopped_among_the_first_steps_keeps_them(tiny_npz: Path, tmp_path: Path) -> None:
    whole = small_batches(tiny_npz, tmp_path / "whole", "kd")
    train_epoch(whole)
    stopped = small_batches(tiny_npz, tmp_path, "kd")
    steps(stopped, 3)
    stopped.flush_losses()
    save(stopped)
    resumed = small_batches(tiny_npz, tmp_path, "kd")
    resume(resumed)
    train_epoch(resumed)
    assert resumed.tally.first_losses == whole.tally.first_losses
    assert len(whole.tally.first_losses or ()) == 11


def test_a_state_of_earlier_versions_gives_a_record_without_them(tiny_npz: Path, tmp_path: Path) -> None:
    """Those of later steps must not be taken for the first ones."""
    run = small_batches(tiny_npz, tmp_path, "kd")
    steps(run, 3)
    run.flush_losses()
    save(run)
    state = load_state(run.folder / STATE)
    assert state
    del state["first_losses"]
    save_state(run.folder / STATE, state)
    resumed = small_batches(tiny_npz, tmp_path, "kd")
    resume(resumed)
    while not resumed.done:
        train_epoch(resumed)
    assert "first_losses" not in finish(resumed)
