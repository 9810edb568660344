"""Cells on several devices: processes that are started, watched, stopped, and resumed in another number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Typed
from digit_files import NAME, RULES, register, write_digits

from kdbench.engine.lockstep import Lockstep
from kdbench.engine.session import Session
from kdbench.engine.team import Team
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.folder import FAILURE, RECORD, STATE
from kdbench.utils.ranks import RankLost

pytestmark = pytest.mark.once
COMMAND = ["train", "--protocol", "imagenet-crd-v1", "--student", "timm:test_resnet", "--method", "ce"]
COMMAND += ["--device", "cpu", "--workers", "0", "--devices", "2"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(autouse=True)
def prepared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Know the protocol, and leave the threads of this process as they are."""
    register(monkeypatch)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def opened(digits: Path, runs: Path, devices: int) -> Session:
    return Session.open(NAME, data=f"folder:{digits}", runs=runs, device="cpu", workers=0, devices=devices)


def trained(session: Session, *methods: str) -> dict[str, dict[str, Any]]:
    cells = [session.cell(method=name, student="resnet8", teacher="resnet8", seed=1) for name in methods]
    records = session.run_all(cells)
    assert all(isinstance(record, dict) for record in records), records
    return dict(zip(methods, records, strict=True))  # type: ignore[arg-type]


def after_step(monkeypatch: pytest.MonkeyPatch, number: int, action: Any) -> None:
    """Do something once, after so many steps of this process."""
    tick, steps = Lockstep.tick, []

    def patched(self: Lockstep, step: int, joined: list[Any]) -> None:
        tick(self, step, joined)
        steps.append(step)
        if len(steps) == number:
            action(self)

    monkeypatch.setattr(Lockstep, "tick", patched)


def test_two_devices_have_the_result_of_one(digits: Path, tmp_path: Path) -> None:
    opened(digits, tmp_path / "runs", 1).train_teacher("resnet8")
    alone = trained(opened(digits, tmp_path / "runs", 1), "kd", "crd")
    for method in alone:
        for record in (tmp_path / "runs").glob(f"*/*/{method}/*/{RECORD}"):
            record.rename(record.with_name("alone.json"))
    several = trained(opened(digits, tmp_path / "runs", 2), "kd", "crd")
    for method, record in several.items():
        assert record["cost"]["devices"] == [2]
        assert alone[method]["cost"]["devices"] == [1]
        assert record["loss"] == pytest.approx(alone[method]["loss"], rel=1e-3)
        assert record["nll"] == pytest.approx(alone[method]["nll"], rel=1e-3)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_cell_resumes_on_another_number_of_devices(
    devices: int, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step(monkeypatch, 2, lambda _: signal.raise_signal(signal.SIGUSR2))
    with pytest.raises(Interrupted, match="saved in epoch 1 after step 2"):
        trained(opened(digits, tmp_path, 3 - devices), "ce")
    assert trained(opened(digits, tmp_path, devices), "ce")["ce"]["cost"]["devices"] == [3 - devices, devices]


def test_a_process_that_dies_ends_the_others_and_nothing_is_lost(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teams: list[Team] = []
    call = Team.call
    monkeypatch.setattr(Team, "call", lambda self, kinds: (teams.append(self), call(self, kinds))[1])

    def kill(_: Lockstep) -> None:
        os.kill(teams[0]._processes[0].pid, signal.SIGKILL)

    after_step(monkeypatch, 3, kill)
    session = opened(digits, tmp_path, 2)
    cell = session.cell(method="ce", student="resnet8", seed=1)
    (outcome,) = session.run_all([cell])
    assert isinstance(outcome, RankLost)
    assert str(outcome) == (
        "ce resnet8 seed 1 was stopped (the process of device 1 of 2 devices was killed by signal 9): type the same "
        "command to resume"
    )
    folder = cell.folder(tmp_path)
    assert not (folder / FAILURE).exists()
    assert not list(folder.glob("claim-*"))
    assert trained(session, "ce")["ce"]["cost"]["devices"] == [2]


def test_an_image_that_one_process_cannot_read_ends_the_cell_by_name(digits: Path, tmp_path: Path) -> None:
    root = write_digits(tmp_path / "digits")
    image = sorted((root / "train").glob("*/*.jpg"))[5]
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2].ljust(image.stat().st_size, b"\0"))
    session = opened(root, tmp_path / "runs", 2)
    with pytest.raises(UserError, match=rf"{image.parent.name}/{image.name} cannot be decoded"):
        session.run(session.cell(method="ce", student="resnet8", seed=1))
    (failure,) = tmp_path.glob(f"runs/*/*/*/*/{FAILURE}")
    assert image.name in json.loads(failure.read_text())["text"]


def test_processes_of_torchrun_meet_and_one_of_them_prints(digits: Path, tmp_path: Path) -> None:
    words = ["--data", f"folder:{digits}", "--epochs", "1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kdbench"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *COMMAND, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("after 1 epoch") == 1
    (record,) = tmp_path.glob(f"runs/*/*/*/*/{RECORD}")
    assert json.loads(record.read_text())["cost"]["devices"] == [2]


def test_processes_end_with_the_one_that_leads_them(digits: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kdbench", *COMMAND, "--data", f"folder:{digits}", "--save-every", "0"]
    leader = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob(f"runs/*/*/*/*/{STATE}")):
            assert leader.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{leader.pid}/task/{leader.pid}/children").read_text().split()
    finally:
        leader.kill()
        leader.wait()
    assert len(children) == 1
    end = time.monotonic() + 60
    while Path(f"/proc/{children[0]}").exists():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_devices_must_divide_the_groups(typed: Typed) -> None:
    code, _, err = typed(*COMMAND[:-1], "3")
    assert code == 2
    assert "--devices 3: a batch of this protocol is 4 groups of 64 images: the number of devices must divide" in err
    code, _, err = typed(
        "train", "--protocol", "digits-demo-v2", "--student", "resnet8", "--method", "ce", *COMMAND[-2:]
    )
    assert code == 2
    assert "is one group of 64 images, which one device computes" in err


def test_a_cell_resumes_to_the_bit_on_as_many_devices(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, RULES.replace("group_size = 8", "group_size = 4"))
    whole = trained(opened(digits, tmp_path / "whole", 4), "ce")["ce"]
    after_step(monkeypatch, 2, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match="saved in epoch 1 after step 2"):
        trained(opened(digits, tmp_path / "stopped", 4), "ce")
    resumed = trained(opened(digits, tmp_path / "stopped", 4), "ce")["ce"]
    assert resumed["weights"] == whole["weights"]
    assert resumed["cost"]["devices"] == [4]
