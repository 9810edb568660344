"""Fixtures of tests of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

import kdbench
import kdbench.methods.kd


@pytest.fixture
def session(tiny_npz: Path, tmp_path: Path) -> kdbench.Session:
    made = kdbench.Session.open("digits-demo-v1", data=f"npz:{tiny_npz}", epochs=2, runs=tmp_path, device="cpu")
    made.train_teacher("resnet14")
    return made
