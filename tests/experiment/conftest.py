"""Fixtures of tests of experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.experiment import own_folders


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of methods that this process knows."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv(own_folders.METHODS, str(folder))
    return folder
