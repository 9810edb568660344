"""Loaders end their processes in silence, whatever else this process does with PyTorch's loaders."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch
from photos import Files, encoded, photo
from torch.utils.data import DataLoader, TensorDataset

from kdbench.data.crops import CropRules
from kdbench.data.decode import Decoder
from kdbench.data.loader import EvaluationItem, ImageLoader

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
