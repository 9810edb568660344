"""Time the cells of a grid that were never run, with the progress on the screen."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.cli.options import console, echo, spinner
from kdbench.errors import Interrupted

if TYPE_CHECKING:
    from kdbench.grid.estimate import GridEstimate
    from kdbench.grid.grid import Grid

_TELL_SECONDS = 10.0
"""Seconds between two lines about the progress, where there is no terminal."""


def measure_unknown(grid: Grid, estimate: GridEstimate) -> GridEstimate:
    """Time the variants whose time is unknown, with the progress on the screen.

    Raises
    ------
    Interrupted
        A signal came; what was timed is kept.
    """
    from kdbench.grid.timing import measure
    from kdbench.utils.signals import Stop
    from kdbench.utils.text import clock

    progress = spinner(console())
    started = time.monotonic()
    printed = started - _TELL_SECONDS
    with tempfile.TemporaryDirectory(prefix="kdbench-") as scratch, Stop() as stop, progress:
        task = progress.add_task("")
        kept = "0"

        def check() -> None:
            if stop.signum is not None:
                raise Interrupted(f"{kept} are timed and kept: type the same command to resume", stop.signum)

        def observe(what: str, done: int, total: int) -> None:
            nonlocal printed, kept
            kept = f"{done} of {total}"
            check()
            now = time.monotonic()
            left = f", about {clock((now - started) / done * (total - done))} left" if done else ""
            text = f"timing {what}: {done} of {total} done{left}"
            progress.update(task, description=text)
            if progress.disable and now - printed >= _TELL_SECONDS:
                printed = now
                echo(text)

        return measure(grid, estimate, Path(scratch), observe=observe, check=check)
