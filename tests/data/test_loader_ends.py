"""Loaders end their processes in silence, whatever else this process does with PyTorch's loaders."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from photos import Files, encoded, photo
from torch.utils.data import DataLoader, TensorDataset

from kdbench.data.decoding.crops import CropRules
from kdbench.data.decoding.decode import Decoder
from kdbench.data.decoding.loader import EvaluationItem, ImageLoader
from kdbench.data.files.check import faults
from kdbench.errors import UserError
from kdbench.utils.signals import DEFERRED

RULES = CropRules(size=8, scale=(0.5, 1.0), ratio=(1.0, 1.0), interpolation="bilinear", evaluation_size=9, flip=False)


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Other tests are left without PyTorch's handler of ended processes."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


def test_processes_end_in_silence_beside_a_loader_of_pytorch() -> None:
    """That one lets PyTorch raise an error in the main thread when any worker ends."""
    assert len(list(DataLoader(TensorDataset(torch.zeros(4)), num_workers=1))) == 4
    files = Files([encoded(photo(12, 10, seed=seed)) for seed in range(4)])
    for _ in range(5):
        loader = ImageLoader(Decoder(files, RULES), 2)
        (batch,) = loader.batches([EvaluationItem(torch.arange(4))])
        loader.close()
        assert batch.shape == (4, 3, 8, 8)


def test_processes_that_look_for_broken_images_leave_signals_to_their_parent(capfd: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C reaches the whole group of a terminal: no process of a check says anything, and none is left."""
    files = Files([encoded(photo(12, 10, seed=seed)) for seed in range(3)] + [b"no image"] * 100)
    found = faults(files, 2)
    assert next(found) is None
    pids = [child.pid for child in multiprocessing.active_children()]
    assert len(pids) == 2
    for pid in pids:
        for signum in DEFERRED:
            os.kill(pid or 0, signum)
    assert [fault for fault in found if fault][-1].startswith("train/cat/102.jpg is no image of a format that is read")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert capfd.readouterr() == ("", "")


def test_a_killed_process_of_a_check_is_one_line() -> None:
    found = faults(Files([encoded(photo(12, 10))] * 2000), 1)
    next(found)
    (child,) = multiprocessing.active_children()
    child.kill()
    with pytest.raises(
        UserError, match=r"\(pid \d+\) was killed, as systems do .* type the same command to check again"
    ):
        list(found)
    assert not multiprocessing.active_children()
