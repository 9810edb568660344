"""Runs cells to their end: what is done already is read, what another process works on is left to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import tomli_w
import torch

from kdbench.data.batches import Batches, DeviceData
from kdbench.engine.lockstep import Lockstep
from kdbench.engine.options import Options
from kdbench.engine.outcomes import Outcome, Outcomes
from kdbench.engine.progress import Observers, quietly
from kdbench.engine.run import Run
from kdbench.engine.run_state import resume, tidy_ended
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import CONFIG, FAILURE, STATE, read_record
from kdbench.teachers.outputs import TeacherSource
from kdbench.utils.files import write_atomic
from kdbench.utils.leases import MAX_CRASHES, Killed, Lease, Leases
from kdbench.utils.signals import Stop


def train_cells(
    cells: Sequence[Cell],
    data: Callable[[], DeviceData],
    source: Callable[[Cell], TeacherSource | None],
    options: Options,
    observers: Observers = quietly,
) -> list[Outcome]:
    """Run cells of one protocol and seed to their end, from their saved states where there are some.

    Data and teachers are loaded only if a cell is not done. A cell that fails does not stop the others: the error is
    its outcome. A ``UserError`` is the user's to mend, any other exception a mistake in a method or in kdbench.

    Raises
    ------
    Interrupted
        A signal came; the states are saved.
    """
    devices = [options.device] if options.device.type == "cuda" else []
    outcomes = Outcomes(cells)
    with Leases(options.scheduler) as leases, Stop() as stop, torch.random.fork_rng(devices):
        held: list[tuple[Cell, Lease]] = []
        for cell in cells:  # all at once, before anything is loaded: another process takes what comes next
            folder = cell.folder(options.runs)
            with outcomes.of(cell):
                record = read_record(folder, cell)
                if record is None:
                    lease = leases.hold(folder, mark=_mark(folder))
                    record = read_record(folder, cell)
                if record is None:
                    held.append((cell, lease))
                else:
                    outcomes.set(cell, record)
                    tidy_ended(folder, options.scheduler)
        batches: Batches | None = None
        runs: list[Run] = []
        for cell, lease in held:
            folder = cell.folder(options.runs)
            with outcomes.of(cell, folder, lease.check):
                (folder / FAILURE).unlink(missing_ok=True)
                if lease.crashes >= MAX_CRASHES:
                    raise Killed(
                        f"{cell} failed: {lease.crashes} processes in a row died before they could save "
                        "anything of it. Was it out of memory? Type the same command to try again"
                    )
                batches = batches or Batches(data(), cell.protocol, cell.seed, options.ranks)
                run = Run(cell, batches, source(cell), options, lease.check)
                write_config(folder, run)
                resume(run)
                runs.append(run)
        if batches and runs:
            Lockstep(runs, batches, outcomes, options).train(stop, observers)
    return outcomes.list()


def _mark(folder: Path) -> int:
    """Return a number that changes whenever a cell's state is saved."""
    state = folder / STATE
    return state.stat().st_mtime_ns if state.exists() else 0


def write_config(folder: Path, run: Run) -> None:
    """Write what a cell is, and where its teacher's outputs come from."""
    settings = run.cell.settings
    config = run.cell.identity() | {"id": run.cell.id, "source": settings.source, "chosen": settings.chosen}
    if run.source:
        config["teacher_outputs"] = run.source.kind
    write_atomic(folder / CONFIG, tomli_w.dumps(config))
