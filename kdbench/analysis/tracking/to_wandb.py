"""Weights & Biases: a run for each cell, sent to the server where the user is logged in, else kept offline."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import wandb

from kdbench.analysis.tracking.cells import Row, TrackedCell
from kdbench.analysis.tracking.tracker import Tracker
from kdbench.utils.files import explain_os_errors, paths_in


@final
class WeightsAndBiases(Tracker):
    """Log rows over epochs; the id of a run is that of the cell."""

    NAME: ClassVar[str] = "wandb"

    def __init__(self, out: Path, project: str, mode: Literal["online", "offline"]) -> None:
        self._out, self._project, self._mode = out, project, mode
        self._open: dict[str, Any] = {}
        """The runs of cells that are running, by the cell's id."""
        self._run: Any = None

    @property
    def place(self) -> str:
        """The folder, or the project on the server."""
        entity = os.environ.get("WANDB_ENTITY", "")
        return str(self._out / "wandb") if self._mode == "offline" else f"wandb project {entity}/{self._project}"

    @property
    def view(self) -> str:
        """The command that sends runs that were kept offline; the address of the others."""
        if self._mode == "offline":
            return f"'wandb sync {self._out}/wandb/offline-run-*'"
        return str(self._run.project_url) if self._run else "'wandb status'"

    def begin(self, cell: TrackedCell, num_sent: int, attempt: int) -> int:
        """See :meth:`Tracker.begin`; a run that is kept offline is a folder, which no later process continues."""
        if num_sent and cell.id in self._open:
            self._run = self._open[cell.id]
            return num_sent
        if cell.id in self._open:
            self._open.pop(cell.id).finish()
        # A server does not take an id again whose run was deleted, and cannot change rows.
        run_id = cell.id if attempt == 1 else f"{cell.id}-{attempt}"
        earlier = paths_in(self._out / "wandb", f"offline-run-*-{cell.id}*") if self._mode == "offline" else []
        with explain_os_errors(self._out, "choose another folder with --out DIR"):
            for folder in earlier:
                shutil.rmtree(folder)
            self._out.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=self._project,
            id=run_id,
            name=cell.name.partition("/")[2],
            group=cell.tags["protocol"],
            tags=[text[:64] for text in cell.tags.values()],
            config=dict(cell.settings),
            dir=str(self._out),
            mode=self._mode,
            resume="allow",
            reinit="create_new",
            settings=settings,
        )
        for axis, names in (("epoch", "*"), ("pretraining/epoch", "pretraining/*")):
            self._run.define_metric(axis)
            self._run.define_metric(names, step_metric=axis, step_sync=False)
        self._open[cell.id] = self._run
        return num_sent if self._mode == "online" else 0

    def send(self, cell: TrackedCell, rows: Sequence[Row]) -> None:
        """See :meth:`Tracker.send`."""
        for row in rows:
            before = any(name.startswith("pretraining/") for name in row.values)
            self._run.log({**row.values, "pretraining/epoch" if before else "epoch": row.step})
        if cell.state != "running":
            self._open.pop(cell.id).finish(exit_code=1 if cell.state == "failed" else 0)

    def close(self) -> None:
        """See :meth:`Tracker.close`."""
        for run in self._open.values():
            run.finish()
        wandb.teardown()


def open_in(out: Path, project: str) -> WeightsAndBiases:
    """Log to the server where a key is stored and ``WANDB_MODE`` does not say otherwise; never ask for a key."""
    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
    return WeightsAndBiases(out, project, "online" if mode in {"online", "shared"} else "offline")
