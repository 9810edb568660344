"""Shared memory that is too small for the batches of a loader, before and after it has begun."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from loader_items import Loading, items
from small_data import message
from torch import Tensor
from torch.utils.data import get_worker_info

from kdbench.utils import resources


def test_too_small_a_shared_memory_is_one_line_before_processes_start(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = 2 * 3 * 32 * 32
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: SimpleNamespace(free=9 * batch))
    opened = loading(4)
    text = message(lambda: opened.batches(items()))
    assert text.startswith("4 workers need 61.4 kB of /dev/shm for batches of 6.1 kB, and 55.3 kB are free: ")
    assert "type --workers 3, or give" in text
    assert not opened.processes.workers
    for num_workers in (0, 3):
        loading(num_workers).check_shared_memory(2)


def test_shared_memory_that_fills_up_is_one_line(loading: Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Tensor) -> Any:
        assert get_worker_info() is not None
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left (28)")

    monkeypatch.setattr(Tensor, "share_memory_", fail)
    text = message(lambda: next(loading(1).batches(items())))
    assert text.startswith("/dev/shm is full: type --workers 0, or fewer than 1, or give")
    assert len(list(loading(0).batches(items()))) == 11
