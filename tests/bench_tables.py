"""Tables of many records: seconds from the shell's prompt to its next, and MB of memory as extra information."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_records import fake_grid, write_records
from timed_command import timed

from kdbench.experiment.pairs import named_pairs

GAINS = {"kd": 1.5, "dkd": 2.5, "crd": 2.3, "reviewkd": 2.6, "pckd": 3.0}


@pytest.fixture(scope="module", params=[10_000, 100_000])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records as large as real ones, of 13 pairs."""
    folder = tmp_path_factory.mktemp("runs")
    pairs = [
        pair for name in ("crd-same-family", "crd-different-family") for pair in map(str, named_pairs()[name].pairs)
    ]
    students = len({pair.partition(">")[2] for pair in pairs})
    seeds = -(-request.param // (len(pairs) * len(GAINS) + students))
    paths = write_records(folder, fake_grid(pairs, GAINS, seeds), indent=2)
    assert len(paths) >= request.param
    return folder


def test_leaderboard(benchmark: Any, runs: Path) -> None:
    benchmark.extra_info["MB"] = timed(benchmark, "leaderboard", str(runs))


def test_paper_table(benchmark: Any, runs: Path) -> None:
    benchmark.extra_info["MB"] = timed(benchmark, "table", str(runs), "--layout", "paper", rounds=1)
