"""``kdbench track``: metrics of cells in TensorBoard, Weights & Biases, MLflow or Trackio."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kdbench.cli.options import console, echo, spinner
from kdbench.cli.selection import RunsArgument, end_with_problems

if TYPE_CHECKING:
    from kdbench.utils.signals import Stop

_POLL_SECONDS = 5.0
_QUIET_LOOKS = 3
"""Looks in a row without a live process after which nothing is followed any more: workers pause between cells."""


def track(
    runs: RunsArgument = Path("runs"),
    *,
    to: Annotated[
        Literal["tensorboard", "wandb", "mlflow", "trackio"],
        typer.Option(help="Tracker; its package comes with \"pip install 'kdbench[TRACKER]'\"."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of what the tracker keeps here, and of notes on what was sent. [default: tracked/TRACKER]",
            metavar="DIR",
        ),
    ] = None,
    project: Annotated[
        str, typer.Option(help="Project of wandb and trackio, experiment of mlflow; tensorboard has none.")
    ] = "kdbench",
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay, and send each epoch when it is done, until no cell is running.")
    ] = False,
) -> None:
    """Send the metrics of cells to a tracker: a run for each cell, a step for each epoch.

    Each row is sent once, so the command may be repeated at any time. If a cell was run anew and has other rows, its
    run is replaced (on a server of wandb or trackio, it gets a second one, ID-2).

    All are kept in --out unless the tracker's own variables name a server: wandb sends to its server if a key is stored
    (WANDB_MODE=offline: keep), mlflow to MLFLOW_TRACKING_URI, trackio to TRACKIO_SPACE_ID or TRACKIO_SERVER_URL.
    """
    from kdbench.analysis.tracking.sending import Sender
    from kdbench.analysis.tracking.tracker import open_tracker
    from kdbench.cli.running import find_scheduler
    from kdbench.errors import Interrupted
    from kdbench.utils.leases import Leases
    from kdbench.utils.signals import Stop
    from kdbench.utils.text import counted

    out = out or Path("tracked") / to
    tracker = open_tracker(to, out, project)
    sender, scheduler = Sender(runs, out, tracker), find_scheduler()
    tracked = sender.tracked
    with Stop() as stop, Leases(scheduler) as leases, contextlib.closing(tracker), spinner(console()) as progress:
        leases.hold(sender.notes)
        task = progress.add_task("reading")
        looks = 0
        while True:
            for folder in sender.send(scheduler):
                progress.update(task, description=f"{counted(tracked.num_sent, 'row')} sent; {folder}")
                if stop.signum is not None:
                    break
            looks = 0 if tracked.running else looks + 1
            if stop.signum is None and watch and looks < _QUIET_LOOKS:
                sent = counted(tracked.num_sent, "row")
                progress.update(task, description=f"{sent} sent; waiting for the next epoch")
                _wait(stop)
            if stop.signum is not None:
                raise Interrupted(
                    f"{counted(tracked.num_sent, 'row')} sent to {tracker.place}: the same command sends the rest",
                    stop.signum,
                )
            if not watch or looks >= _QUIET_LOOKS:
                break
    anew = f", {counted(tracked.num_anew, 'cell')} anew" if tracked.num_anew else ""
    echo(f"{counted(tracked.num_cells, 'cell')}: {counted(tracked.num_sent, 'row')} sent to {tracker.place}{anew}")
    echo(f"type {tracker.view} to see them")
    end_with_problems(tracked.problems)


def _wait(stop: Stop) -> None:
    """Wait for the next look, or for a signal."""
    until = time.monotonic() + _POLL_SECONDS
    while stop.signum is None and time.monotonic() < until:
        time.sleep(0.2)
