"""A process that parts from others has nothing of theirs left when Python ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed import HashStore  # type: ignore[attr-defined]

from kdbench.utils.ranks import ALONE, join


def threads() -> list[str]:
    """Return the names of this process's threads, those that only C++ knows too."""
    return sorted(task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_of_a_group_is_left_while_something_still_knows_the_processes() -> None:
    before = [name for name in threads() if "gloo" in name]
    ranks = join(0, 1, torch.device("cpu"), HashStore())
    assert [name for name in threads() if "gloo" in name] != before
    ranks.leave()
    assert not distributed.is_initialized()
    assert [name for name in threads() if "gloo" in name] == before


def test_leaving_twice_and_leaving_no_one_do_nothing() -> None:
    ranks = join(0, 1, torch.device("cpu"), HashStore())
    ranks.leave()
    ranks.leave()
    ALONE.leave()
    assert not distributed.is_initialized()
