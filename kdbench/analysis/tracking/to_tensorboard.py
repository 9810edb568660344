"""TensorBoard: a folder of event files for each cell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from kdbench.analysis.tracking.cells import Row, TrackedCell
from kdbench.analysis.tracking.tracker import Tracker
from kdbench.utils.files import explain_os_errors, paths_in
from kdbench.utils.text import quoted

_FILES = "events.out.tfevents.*"


@final
class TensorBoard(Tracker):
    """Write scalars, and the settings as hyper-parameters."""

    NAME: ClassVar[str] = "tensorboard"

    def __init__(self, out: Path) -> None:
        self._out = out
        self._begun = False
        """Whether the run that was begun last has its settings."""

    @property
    def place(self) -> str:
        """The folder."""
        return str(self._out)

    @property
    def view(self) -> str:
        """The command that shows the folder."""
        return quoted("tensorboard", "--logdir", self._out)

    def begin(self, cell: TrackedCell, num_sent: int, attempt: int) -> int:
        """See :meth:`Tracker.begin`."""
        folder = self._out / cell.name
        files = paths_in(folder, _FILES)
        self._begun = bool(files and num_sent)
        if self._begun:
            return num_sent
        with explain_os_errors(folder, "choose another folder with --out DIR"):
            for file in files:
                file.unlink()
        return 0

    def send(self, cell: TrackedCell, rows: Sequence[Row]) -> None:
        """See :meth:`Tracker.send`."""
        now = time.time()
        events = [] if self._begun else [Event(wall_time=now, summary=hparams_pb(cell.settings, trial_id=cell.id))]
        for row in rows:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
            events.append(Event(wall_time=now, step=row.step, summary=Summary(value=values)))
        if events:
            with explain_os_errors(self._out, "choose another folder with --out DIR"):
                writer = EventFileWriter(str(self._out / cell.name))
                for event in events:
                    writer.add_event(event)
                writer.close()

    def close(self) -> None:
        """Do nothing: no run is open."""


def open_in(out: Path, project: str) -> TensorBoard:  # noqa: ARG001 - folders are its projects
    """Write below a folder."""
    return TensorBoard(out)
