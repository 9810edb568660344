"""A killed run goes on bit for bit; a damaged state loses nothing that was good."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import METHODS, make_run

from kdbench.engine.progress import Diverged, Observer, Progress
from kdbench.engine.run import Run
from kdbench.engine.run_state import resume, save
from kdbench.engine.train import train_cells
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.folder import STATE
from kdbench.utils import files
from kdbench.utils.checkpoint import load_state, save_state
from kdbench.utils.files import write_atomic
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
        pytest.raises(Diverged, match=r"diverged in epoch 1 at step 3 \(ce = nan, kd = nan\)"),
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


STATE_VALUES = {"step": 3, "weight": torch.arange(5.0)}


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "foreign"])
def test_a_damaged_state_is_named_and_the_one_before_it_is_kept(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, STATE_VALUES)
    save_state(path, {**STATE_VALUES, "step": 4})
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"truncate": content[:-7], "flip": content, "empty": b"", "foreign": b"hello"}[damage])
    with pytest.raises(UserError, match=r"state is damaged: delete that file to resume from the state before it"):
        load_state(path)
    path.unlink()
    found = load_state(path)
    assert found is not None
    assert found["step"] == 3
    assert torch.equal(found["weight"], STATE_VALUES["weight"])


def test_a_state_that_holds_code_is_never_run(tmp_path: Path) -> None:
    """Even with a right checksum."""

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    save_state(tmp_path / "state", {"evil": Evil()})
    with pytest.raises(UserError, match="damaged"):
        load_state(tmp_path / "state")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "no space is left"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")]
)
def test_a_write_that_fails_leaves_the_old_file(
    code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    save_state(path, STATE_VALUES)
    before = path.read_bytes()

    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(UserError, match=words):
        save_state(path, {**STATE_VALUES, "step": 4})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_writing_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="--runs DIR"):
        write_atomic(tmp_path / "runs" / "a" / "b", "text")


def test_a_state_of_another_cell_is_refused(tiny_npz: Path, tmp_path: Path) -> None:
    one, other = make_run(tiny_npz, tmp_path, "ce", seed=1), make_run(tiny_npz, tmp_path, "ce", seed=2)
    save(one)
    other.folder.mkdir(parents=True)
    (one.folder / STATE).rename(other.folder / STATE)
    with pytest.raises(UserError, match="belongs to cell"):
        resume(other)
