"""What several tests share: one thread, and a small data set that can be learnt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import Typed

from kdbench import cli

torch.set_num_threads(1)


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

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kdbench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 training and 30 test images of 3 classes, 16 x 16, each class a stripe pattern under noise."""
    generator = np.random.default_rng(7)

    def images(labels: np.ndarray) -> np.ndarray:
        rows = np.arange(16)[:, None, None]
        waves = [127 + 90 * np.sin(rows * (c + 1) * np.pi / 4) * np.ones((1, 16, 3)) for c in range(3)]
        noise = generator.normal(0, 30, (len(labels), 16, 16, 3))
        return np.clip(np.stack([waves[c] for c in labels]) + noise, 0, 255).astype(np.uint8)

    train, test = np.arange(42) % 3, np.arange(30) % 3
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, train_images=images(train), train_labels=train, test_images=images(test), test_labels=test)
    return path
