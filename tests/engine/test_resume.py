"""A killed run goes on bit for bit; a damaged state loses nothing that was good."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cells import METHODS, make_run

from kdbench.engine import lockstep
from kdbench.engine.divergence import Diverged
from kdbench.engine.progress import Observer, Progress
from kdbench.engine.run import Run
from kdbench.engine.run_state import resume, save
from kdbench.engine.train import train_cells
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.folder import STATE
from kdbench.utils.leases import Busy, Leases

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def results(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = Path(__file__).parent.parent / "kill_and_resume.py"
    command = [sys.executable, str(script), str(tiny_npz), str(tmp_path_factory.mktemp("runs"))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_ends_like_a_quiet_one(method: str, results: dict[str, Any]) -> None:
    result = results[method]
    assert result["ends"] == [0, -signal.SIGKILL, 0]
    assert result["killed"] == result["quiet"]
    assert len(result["quiet"]["metrics"].splitlines()) == 2
    assert STATE not in result["quiet"]["files"]


def train(run: Run, observer: Observer = lambda _: None) -> dict[str, Any]:
    """Train a run's cell as a new process would."""
    (outcome,) = train_cells([run.cell], lambda: run.data, lambda _: run.source, run.options, lambda _: observer)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def run_until(run: Run, fraction: float, signum: int) -> Interrupted:
    """Train a run's cell and send this process a signal once so much is done."""

    def observe(progress: Progress) -> None:
        if progress.fraction >= fraction:
            os.kill(os.getpid(), signum)

    with pytest.raises(Interrupted) as caught:
        train(run, observe)
    return caught.value


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_call_goes_on(signum: int, tiny_npz: Path, tmp_path: Path) -> None:
    quiet = make_run(tiny_npz, tmp_path / "quiet", "kd")
    expected = train(quiet)
    run = make_run(tiny_npz, tmp_path / "stopped", "kd")
    before = signal.getsignal(signum)
    stopped = run_until(run, 0.0, signum)
    assert stopped.signum == signum
    assert "type the same command to resume" in str(stopped)
    assert signal.getsignal(signum) is before
    seen: list[float] = []
    record = train(run, lambda p: seen.append(p.fraction))
    assert seen[0] > 0
    assert record["weights"] == expected["weights"]
    assert record["nll"] == expected["nll"]
    assert record["predictions"] == expected["predictions"]


def test_a_finished_cell_is_only_read(tiny_npz: Path, tmp_path: Path) -> None:
    run = make_run(tiny_npz, tmp_path, "ce")
    record = train(run)

    def never(*_: Any) -> Any:
        raise AssertionError("data were loaded for a finished cell")

    assert train_cells([run.cell], never, never, run.options) == [record]


def test_two_processes_never_run_one_cell(tiny_npz: Path, tmp_path: Path) -> None:
    run = make_run(tiny_npz, tmp_path, "ce")
    with Leases() as leases:
        leases.hold(run.cell.folder(tmp_path))
        with pytest.raises(Busy, match=f"being run by process {os.getpid()}"):
            train(run)
    assert train(run)["top1"] > 0


@contextlib.contextmanager
def updates_that_end_in(value: float) -> Iterator[None]:
    """Let every optimiser step overwrite one tensor of weights."""
    step = torch.optim.SGD.step

    def explode(self: torch.optim.SGD) -> None:
        step(self)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", explode)
        yield


def test_divergence_names_step_and_terms_and_keeps_the_last_good_state(tiny_npz: Path, tmp_path: Path) -> None:
    run = make_run(tiny_npz, tmp_path, "kd")
    folder = run.cell.folder(tmp_path)
    run_until(run, 0.0, signal.SIGINT)
    good = (folder / STATE).read_bytes()
    with (
        updates_that_end_in(torch.nan),
        pytest.raises(Diverged, match=r"in epoch 1 at step 3 \(ce = nan, kd = nan\); its last good state is kept in"),
    ):
        train(run)
    failure = json.loads((folder / "failed.json").read_bytes())
    assert failure["reason"] == "diverged"
    assert (failure["epoch"], failure["step"], failure["terms"]) == (1, 3, {"ce": "nan", "kd": "nan"})
    assert (folder / STATE).read_bytes() == good
    train(run)
    assert not (folder / "failed.json").exists()


def test_a_teacher_whose_outputs_are_not_finite_is_blamed(tiny_npz: Path, tmp_path: Path) -> None:
    run = make_run(tiny_npz, tmp_path, "kd")
    assert run.source
    bias = run.source.live.net.backbone.head().bias
    assert bias is not None
    bias.data.fill_(torch.nan)
    with pytest.raises(
        Diverged, match=r"epoch 1 at step 1 .*the outputs of its teacher resnet20@.* are not finite"
    ) as failed:
        train(run)
    assert "loss weights with" not in str(failed.value)


def test_weights_that_break_in_the_last_step_are_found(tiny_npz: Path, tmp_path: Path) -> None:
    run = make_run(tiny_npz, tmp_path, "ce", batch_size=42)
    with updates_that_end_in(torch.inf), pytest.raises(Diverged):
        train(run)


@pytest.mark.parametrize(
    ("save_every", "seconds", "saves"),
    [
        (10.0, 0.1, [10, 20, 30, 40]),
        (10.0, 1.0, [10, 29]),
        (10.0, 5.0, [10]),
        (0.5, 1.0, [1, 20, 39]),
        (0.0, 5.0, list(range(1, 43))),
    ],
)
def test_a_save_that_takes_long_is_made_less_often(
    save_every: float, seconds: float, saves: list[int], tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most a twentieth of the time, by a clock on which a step takes a second; 0 asks for every step."""
    run = make_run(tiny_npz, tmp_path, "ce", batch_size=2)
    clock, saved, steps = 0.0, [], 0
    tick = lockstep.Lockstep.tick

    def a_second(*args: Any) -> None:
        nonlocal clock, steps
        tick(*args)
        clock, steps = clock + 1, steps + 1

    def slow(_: Run) -> None:
        nonlocal clock
        clock += seconds
        saved.append(steps)

    monkeypatch.setattr(lockstep, "time", SimpleNamespace(monotonic=lambda: clock))
    monkeypatch.setattr(lockstep.Lockstep, "tick", a_second)
    monkeypatch.setattr(lockstep, "save", slow)
    options = dataclasses.replace(run.options, save_every=save_every)
    (outcome,) = train_cells([run.cell], lambda: run.data, lambda _: None, options)
    assert isinstance(outcome, dict)
    assert (steps, saved) == (42, saves)


def test_a_state_of_another_cell_is_refused(tiny_npz: Path, tmp_path: Path) -> None:
    one, other = make_run(tiny_npz, tmp_path, "ce", seed=1), make_run(tiny_npz, tmp_path, "ce", seed=2)
    save(one)
    other.folder.mkdir(parents=True)
    (one.folder / STATE).rename(other.folder / STATE)
    with pytest.raises(UserError, match="belongs to cell"):
        resume(other)
