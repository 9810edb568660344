"""Fixtures of tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny_npz: Path) -> list[str]:
    """The words that make a command small and quick."""
    return ["--protocol", "digits-demo-v1", "--data", f"npz:{tiny_npz}", "--epochs", "1"]
