"""What several tests share: one thread, and a small data set that can be learnt."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import Typed
from own_files import forget
from trained_runs import TrainedRuns, make_runs

from kdbench import cli
from kdbench.engine.checks.small import tiny_arrays
from kdbench.experiment import own_folders

pytest.register_assert_rewrite("parity")  # adapters in tests/methods/parity
torch.set_num_threads(1)
# Of processes that tests start: several threads each, beside another test, wait for each other for minutes.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what benchmarks found besides their times."""
    session = getattr(config, "_benchmarksession", None)
    for benchmark in session.benchmarks if session else ():
        if benchmark.extra_info:
            found = ", ".join(f"{key} {value:.3g}" for key, value in benchmark.extra_info.items())
            terminalreporter.write_line(f"{benchmark.name}: {found}")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Typed:
    """Type a command in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    variables = (own_folders.METHODS, own_folders.OWN)
    for variable in variables:
        monkeypatch.setenv(variable, os.environ.get(variable, ""))  # what commands set is undone

    def run(*words: object) -> tuple[int, str, str]:
        named = {variable: os.environ.get(variable, "") for variable in variables}  # each command is its own process
        forget()
        monkeypatch.setattr(sys, "argv", ["kdbench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        for variable, folders in named.items():
            monkeypatch.setenv(variable, folders)
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def float64() -> Iterator[None]:
    """Make networks and methods in float64, for numbers that two kernels or two orders of summation are to agree on.

    In float32 such numbers differ by as much as training amplifies their rounding, which depends on the processor.
    """
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a few images as a file; see ``tiny_arrays``."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **tiny_arrays())
    return path


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory, tiny_npz: Path) -> TrainedRuns:
    """Networks of each kind, trained for an epoch; tests copy what they change."""
    return make_runs(tmp_path_factory.mktemp("trained"), tiny_npz)
