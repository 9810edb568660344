"""Fixtures of tests of analysis."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_pages import Page, report
from report_runs import records, undrawn, write_runs

from kdbench.analysis.published.values import Published, load_published


@pytest.fixture(scope="module")
def cifar100() -> Published:
    return load_published("cifar100")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.analysis.report.sections.draw", undrawn)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Page]:
    """Folders of runs and of their report, and its page."""
    folder = tmp_path_factory.mktemp("report")
    write_runs(folder / "runs", records())
    return folder / "runs", folder / "out", report(folder / "runs", folder / "out")
