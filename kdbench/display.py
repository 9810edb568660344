"""Progress on the screen: one line a cell."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Live

from kdbench.cell import Cell
from kdbench.trainer import Observer, Progress


class Display:
    """A live line for each cell on a terminal; elsewhere a printed line now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
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
        """Show a cell's progress."""
        task = self.live.add_task(str(cell), total=1.0, note="")
        printed = -1.0

        def observe(progress: Progress) -> None:
            nonlocal printed
            note = _note(progress)
            self.live.update(task, completed=progress.fraction, note=note)
            if self.live.disable and progress.fraction >= printed + 0.1:
                printed = progress.fraction
                self.console.print(f"{cell}: {note}", highlight=False)

        return observe

    def done(self, cell: Cell, record: dict[str, Any], *, found: bool) -> None:
        """Show a cell's result."""
        how = "found" if found else f"in {record['cost']['train_seconds'] + record['cost']['evaluate_seconds']:.0f} s"
        note = f"{record['top1']:.2f} % after {record['epochs']} epochs, {how}"
        tasks = [t for t in self.live.tasks if t.description == str(cell)]
        task = tasks[-1].id if tasks else self.live.add_task(str(cell), total=1.0, note="")
        self.live.update(task, completed=1.0, note=note)
        if self.live.disable:
            self.console.print(f"{cell}: {note}", highlight=False)


def _note(progress: Progress) -> str:
    parts = [f"epoch {progress.epoch}/{progress.epochs}"]
    if progress.top1 is not None:
        parts.append(f"{progress.top1:.2f} %")
    if progress.seconds_left is not None:
        parts.append(f"{clock(progress.seconds_left)} left")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """A duration as 0:05, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
