"""MLflow: a run for each cell, in a database below a folder or on the server of ``MLFLOW_TRACKING_URI``."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from kdbench.analysis.tracking.cells import Row, TrackedCell
from kdbench.analysis.tracking.tracker import Tracker
from kdbench.utils.text import quoted

_CELL = "kdbench.cell"
_PIECE = 100
"""Settings or rows that a server takes at a time."""
_LONGEST = 500
"""Letters of a setting that every version of MLflow takes."""
_STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED"}


@final
class MLflow(Tracker):
    """Log rows by epoch; MLflow gives runs ids of its own, so the cell's is a tag, by which its run is found."""

    NAME: ClassVar[str] = "mlflow"

    def __init__(self, uri: str, project: str) -> None:
        self._uri, self._project = uri, project
        self._client = MlflowClient(uri)
        experiment = self._client.get_experiment_by_name(project)
        self._experiment = experiment.experiment_id if experiment else self._client.create_experiment(project)
        self._run = ""

    @property
    def place(self) -> str:
        """The experiment of a server or database."""
        return f"experiment {self._project} of {self._uri}"

    @property
    def view(self) -> str:
        """The command that shows a database."""
        return quoted("mlflow", "ui", "--backend-store-uri", self._uri)

    def begin(self, cell: TrackedCell, num_sent: int, attempt: int) -> int:
        """See :meth:`Tracker.begin`."""
        runs = self._client.search_runs([self._experiment], f"tags.`{_CELL}` = '{cell.id}'")
        if runs and num_sent:
            self._run = runs[0].info.run_id
            return num_sent
        for run in runs:
            self._client.delete_run(run.info.run_id)
        tags = {_CELL: cell.id, **cell.tags}
        name = cell.name.partition("/")[2]
        self._run = self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id
        params = [Param(_key(key), str(value)[:_LONGEST]) for key, value in cell.settings.items()]
        for start in range(0, len(params), _PIECE):
            self._client.log_batch(self._run, params=params[start : start + _PIECE])
        return 0

    def send(self, cell: TrackedCell, rows: Sequence[Row]) -> None:
        """See :meth:`Tracker.send`."""
        now = round(time.time() * 1000)
        metrics = [Metric(_key(name), value, now, row.step) for row in rows for name, value in row.values.items()]
        for start in range(0, len(metrics), 10 * _PIECE):
            self._client.log_batch(self._run, metrics=metrics[start : start + 10 * _PIECE])
        self._client.update_run(self._run, status=_STATUS[cell.state])

    def close(self) -> None:
        """Do nothing: no run is open."""


def _key(name: str) -> str:
    """Return a name without the letters that MLflow does not take in one."""
    return re.sub(r"[^\w. /:-]", "_", name)


def open_in(out: Path, project: str) -> MLflow:
    """Log to ``MLFLOW_TRACKING_URI``, or else to ``mlflow.db`` in a folder."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    return MLflow(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out / 'mlflow.db'}", project)
