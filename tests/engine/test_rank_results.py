"""Several processes that compute a cell together: the result does not depend on how many they are."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import METHODS, make_run

from kdbench.utils.ranks import Ranks

pytestmark = pytest.mark.once
SIZES = (1, 2, 4)


def together(size: int, *words: str) -> list[subprocess.Popen[bytes]]:
    """Start the processes of `rank_steps`."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    tests = Path(__file__).parent.parent
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    paths = {"PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(tests / "rank_steps.py"), *words]
    return [
        subprocess.Popen(command, env=os.environ | shared | paths | {"RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(size)
    ]


def results(size: int, folder: Path, npz: Path) -> dict[str, Any]:
    file = folder / f"{size}.pt"
    processes = together(size, str(file), str(npz), str(folder / f"runs-{size}"), *METHODS)
    try:
        errors = [process.communicate(timeout=600)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * size, errors
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def computed(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What one, two and four processes compute of every method."""
    folder = tmp_path_factory.mktemp("ranks")
    return {size: results(size, folder, tiny_npz) for size in SIZES}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES[1:])
def test_the_result_does_not_depend_on_the_number_of_processes(
    method: str, size: int, computed: dict[int, dict[str, Any]]
) -> None:
    alone, several = computed[1][method], computed[size][method]
    assert len(alone["losses"]) == 5
    assert several["losses"] == [pytest.approx(terms, rel=1e-9) for terms in alone["losses"]]
    assert several["single"] == [pytest.approx(terms, rel=1e-4) for terms in alone["single"]]
    assert several["weights"].keys() == alone["weights"].keys()
    for name, value in alone["weights"].items():
        torch.testing.assert_close(several["weights"][name], value, rtol=1e-9, atol=1e-12)
    assert several["metrics"] == [pytest.approx(row, rel=1e-9) for row in alone["metrics"]]
    assert several["per_class"] == alone["per_class"]
    torch.testing.assert_close(several["predictions"], alone["predictions"], rtol=1e-3, atol=1e-4)


def test_processes_share_the_groups_evenly(tiny_npz: Path, tmp_path: Path) -> None:
    runs = [make_run(tiny_npz, tmp_path, "ce", ranks=Ranks(rank, 2), batch_size=32, group_size=8) for rank in range(2)]
    for run in runs:
        run.batches.begin(1)
    assert [[group.number for group in run.batches.groups(0)] for run in runs] == [[0, 2], [1, 3]]
