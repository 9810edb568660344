"""Trackio: a run for each cell, in a folder or on the server of ``TRACKIO_SPACE_ID`` or ``TRACKIO_SERVER_URL``."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

from kdbench.analysis.tracking.cells import Row, TrackedCell
from kdbench.analysis.tracking.tracker import Tracker


@final
class Trackio(Tracker):
    """Log rows by epoch; Trackio gives runs ids of its own and finds them by name, which ends with the cell's id."""

    NAME: ClassVar[str] = "trackio"

    def __init__(self, out: Path, project: str) -> None:
        self._out, self._project = out, project

    @property
    def place(self) -> str:
        """The folder, or the server."""
        return _server() or str(self._out)

    @property
    def view(self) -> str:
        """The command that shows a folder."""
        return f"'TRACKIO_DIR={shlex.quote(str(self._out))} trackio show --project {self._project}'"

    def begin(self, cell: TrackedCell, num_sent: int, attempt: int) -> int:
        """See :meth:`Tracker.begin`."""
        import trackio  # noqa: PLC0415

        # A server does not say what it holds: what cannot be deleted there gets a second run.
        name = cell.name.partition("/")[2] + (f"-{attempt}" if _server() and attempt > 1 else "")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for each run
            try:
                runs = [run for run in trackio.Api().runs(self._project) if run.name == name]
            except ValueError:  # the project is new
                runs = []
            if not num_sent:
                for run in runs:
                    run.delete()
            trackio.init(
                self._project,
                name=name,
                group=cell.tags["protocol"],
                config=dict(cell.settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return num_sent if runs or _server() else 0

    def send(self, cell: TrackedCell, rows: Sequence[Row]) -> None:
        """See :meth:`Tracker.send`."""
        import trackio  # noqa: PLC0415

        for row in rows:
            trackio.log(dict(row.values), step=row.step)
        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()

    def close(self) -> None:
        """Do nothing: no run is open."""


def _server() -> str:
    """Return where Trackio sends rows to; empty if it keeps them here."""
    return os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL") or ""


def open_in(out: Path, project: str) -> Trackio:
    """Log below a folder; Trackio reads which when it is imported."""
    os.environ["TRACKIO_DIR"] = str(out)
    return Trackio(out, project)
