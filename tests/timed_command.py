"""Commands that a benchmark times, each in a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def timed(benchmark: Any, *words: str, rounds: int = 3) -> float:
    """Type a command in a process of its own; returns its peak memory, or this process's if that is more, in MB."""
    return timed_python(benchmark, "-m", "kdbench", *words, rounds=rounds)


def timed_python(benchmark: Any, *words: str, rounds: int = 3) -> float:
    """Run Python with these words, as `timed` runs a command."""
    memory = 0.0

    def run() -> None:
        nonlocal memory
        with Path(os.devnull).open("w") as nowhere:
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, *words],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)],
            )
            _, status, usage = os.wait4(pid, 0)
            assert status == 0
            memory = usage.ru_maxrss / 1e3

    benchmark.pedantic(run, rounds=rounds, warmup_rounds=1)
    return memory
