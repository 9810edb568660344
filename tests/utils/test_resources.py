"""The CPUs and the shared memory of a job."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from kdbench.utils import resources
from kdbench.utils.resources import free_shared_memory, owned_cpus


@pytest.mark.parametrize(("slurm", "cpus"), [(None, 5), ("3", 3), ("64", 5), ("0", 1), ("", 5), ("many", 5)])
def test_cpus_are_those_that_may_be_used_and_that_slurm_gave(
    monkeypatch: pytest.MonkeyPatch, slurm: str | None, cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if slurm is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    assert owned_cpus() == cpus


def test_without_affinity_all_cpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert owned_cpus() == 6


def test_free_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: SimpleNamespace(free=7))
    assert free_shared_memory() == 7


def test_no_limit_where_there_is_no_such_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "SHARED_MEMORY", "/no/such/folder")
    assert free_shared_memory() is None
