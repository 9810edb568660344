"""Show progress on the screen, one line a cell."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Live

from kdbench.engine.progress import Observer, Progress
from kdbench.experiment.cell import Cell
from kdbench.teachers.watch import Estimate, Watch
from kdbench.utils.text import clock, counted, size


class Display(Watch):
    """Show a live line for each cell and cache on a terminal; elsewhere, print a line every tenth of the work."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._tasks: dict[str, TaskID] = {}
        self._build: tuple[TaskID, float] | None = None
        self.live = Live(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Display:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def observer(self, cell: Cell) -> Observer:
        """Return the observer that shows a cell's progress."""
        task = self._tasks[cell.id] = self.live.add_task(str(cell), total=1.0, note="")
        printed = -1.0

        def observe(progress: Progress) -> None:
            nonlocal printed
            note = _note(progress)
            self.live.update(task, completed=progress.fraction, note=note)
            if self.live.disable and progress.fraction >= printed + 0.1:
                printed = progress.fraction
                self.console.print(f"{cell}: {note}", highlight=False)

        return observe

    def shows(self, cell: Cell) -> bool:
        """Return whether the progress of a cell has been shown: it was trained here, and not found."""
        return cell.id in self._tasks

    def done(self, cell: Cell, record: dict[str, Any], *, existed: bool = False) -> None:
        """Show the result of a cell, which existed before or has just been trained."""
        seconds = record["cost"]["train_seconds"] + record["cost"]["evaluate_seconds"]
        how = "already finished" if existed else f"in {seconds:.0f} s"
        note = f"{record['top1']:.2f} % after {counted(record['epochs'], 'epoch')}, {how}"
        if cell.id not in self._tasks:
            self._tasks[cell.id] = self.live.add_task(str(cell), total=1.0, note="")
        task = self._tasks[cell.id]
        self.live.update(task, completed=1.0, note=note)
        if self.live.disable:
            self.console.print(f"{cell}: {note}", highlight=False)

    def estimate(self, teacher: str, estimate: Estimate) -> None:
        """Print what building a cache will take."""
        self.console.print(
            f"cache of {teacher}: {counted(estimate.views, 'view')} to compute, {size(estimate.bytes)} to write to "
            f"{estimate.folder} ({size(estimate.free)} free), about {clock(estimate.seconds)}",
            highlight=False,
        )
        self._build = self.live.add_task(f"cache of {teacher}", total=1.0, note=""), 0.0

    def progress(self, done: int, total: int, seconds_left: float) -> None:
        """Show how far the building of a cache is."""
        assert self._build is not None
        task, printed = self._build
        fraction, note = done / total, f"{done:,} of {total:,} views, {clock(seconds_left)} left"
        self.live.update(task, completed=fraction, note=note)
        if self.live.disable and (fraction >= printed + 0.1 or done == total):
            self._build = task, fraction
            self.console.print(f"cache: {note}", highlight=False)

    def waiting(self, teacher: str) -> None:
        """Print that another process builds the cache."""
        self.console.print(f"cache of {teacher}: waiting for another process that is building it", highlight=False)


def _note(progress: Progress) -> str:
    before = "pre-training, " if progress.pretraining else ""
    parts = [f"{before}epoch {progress.epoch}/{progress.epochs}"]
    if progress.top1 is not None:
        parts.append(f"{progress.top1:.2f} %")
    if progress.seconds_left is not None:
        parts.append(f"{clock(progress.seconds_left)} left")
    return ", ".join(parts)
