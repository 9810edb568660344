"""What a process is prepared with before it trains."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from cells import make_run

import kdbench
from kdbench.engine import session
from kdbench.utils.device import prepare_process


def test_a_gpu_is_made_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    device = torch.device("cuda")
    try:
        assert prepare_process(device) is device
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)


def test_opening_a_session_prepares_the_process_and_building_a_run_does_not(
    tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[torch.device] = []
    monkeypatch.setattr(session, "prepare_process", lambda device: (prepared.append(device), device)[1])
    make_run(tiny_npz, tmp_path, "ce")
    assert not prepared
    opened = kdbench.Session.open("digits-demo-v1", runs=tmp_path, device="cpu")
    assert prepared == [opened.device] == [torch.device("cpu")]
