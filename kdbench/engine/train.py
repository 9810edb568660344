"""Runs cells to their end: what is done already is read, what another process works on is left to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import tomli_w
import torch

from kdbench.data.batches import Batches, DeviceData
from kdbench.engine.lockstep import Lockstep
from kdbench.engine.options import Options
from kdbench.engine.outcomes import Held, Outcome, Outcomes
from kdbench.engine.progress import Observers, quietly
from kdbench.engine.run import Run
from kdbench.engine.run_state import resume, tidy_ended
from kdbench.engine.team import Team
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import CONFIG, FAILURE, STATE, read_record
from kdbench.models.weights import weights_hash
from kdbench.teachers.sources import TeacherSource
from kdbench.utils.files import write_atomic
from kdbench.utils.leases import MAX_CRASHES, Killed, Lease, Leases
from kdbench.utils.ranks import RankLost, Ranks
from kdbench.utils.signals import Stop


def train_cells(
    cells: Sequence[Cell],
    data: Callable[[], DeviceData],
    source: Callable[[Cell], TeacherSource | None],
    options: Options,
    observers: Observers = quietly,
    team: Team | None = None,
) -> list[Outcome]:
    """Run cells of one protocol and seed to their end, from their saved states where there are some.

    Data and teachers are loaded only if a cell is not done. A cell that fails does not stop the others: the error is
    its outcome. A ``UserError`` is the user's to mend, any other exception a mistake in a method or in kdbench.

    Raises
    ------
    Interrupted
        A signal came; the states are saved.
    """
    team = team or Team()
    devices = [options.device] if options.device.type == "cuda" else []
    outcomes = Outcomes(cells)
    with Leases(options.scheduler) as leases, Stop() as stop, torch.random.fork_rng(devices):
        held: list[tuple[Held, Lease]] = []
        for cell in cells:  # all at once, before anything is loaded: another process takes what comes next
            folder = cell.folder(options.runs)
            with outcomes.of(cell):
                record = read_record(folder, cell)
                if record is None:
                    lease = leases.hold(folder, mark=_mark(folder))
                    record = read_record(folder, cell)
                if record is None:
                    held.append((Held(cell, folder, lease.check), lease))
                else:
                    outcomes.set(cell, record)
                    tidy_ended(folder, options.scheduler)
        ready: list[Held] = []
        sources: dict[str, TeacherSource | None] = {}
        for each, lease in held:
            with outcomes.attempt(each):
                (each.folder / FAILURE).unlink(missing_ok=True)
                if lease.crashes >= MAX_CRASHES:
                    raise Killed(
                        f"{each.cell} failed: {lease.crashes} processes in a row died before they could save "
                        "anything of it. Was it out of memory? Type the same command to try again"
                    )
                sources[each.cell.id] = source(each.cell)
                ready.append(each)
        if ready:
            try:
                ranks = team.call({name: origin.kind if origin else None for name, origin in sources.items()})
                options = replace(options, ranks=ranks)
                train_held(ready, data, lambda cell: sources[cell.id], options, outcomes, stop, observers)
            except RankLost as error:
                outcomes.stop(ready, team.reason(error))
    return outcomes.list()


def train_held(
    held: Sequence[Held],
    data: Callable[[], DeviceData],
    source: Callable[[Cell], TeacherSource | None],
    options: Options,
    outcomes: Outcomes,
    stop: Stop,
    observers: Observers = quietly,
) -> None:
    """Run cells to their end; each of the processes that compute them does this.

    Raises
    ------
    Interrupted
        A signal came; the states are saved.
    RankLost
        Another of the processes has ended.
    """
    batches: Batches | None = None
    runs: list[Run] = []
    for each in held:
        with outcomes.attempt(each):
            batches = batches or Batches(data(), each.cell.protocol, each.cell.seed, options.ranks)
            run = Run(each.cell, batches, source(each.cell), options, each.permit)
            if options.ranks.leads:
                write_config(each.folder, run)
            resume(run)
            runs.append(run)
    outcomes.agree(held, options.ranks)
    runs = [run for run in runs if not outcomes.has(run.cell)]
    _check_equal(runs, options.ranks)
    if batches and runs:
        with options.ranks.unbroken():
            Lockstep(runs, batches, outcomes, options).train(stop, observers)


def _check_equal(runs: Sequence[Run], ranks: Ranks) -> None:
    """Raise ``RankLost`` unless all processes begin at the same place with the same weights."""
    if ranks.size == 1:
        return
    places = [[run.stream_epoch, run.step, weights_hash(run.module.state_dict())] for run in runs]
    of_all = ranks.tell_all(places)
    for rank, others in enumerate(of_all):
        if others != of_all[0]:
            raise RankLost(
                f"process {rank} begins with other weights than process 0: do all see the same files, with the same "
                "versions of PyTorch?"
            )


def _mark(folder: Path) -> int:
    """Return a number that changes whenever a cell's state is saved."""
    state = folder / STATE
    return state.stat().st_mtime_ns if state.exists() else 0


def write_config(folder: Path, run: Run) -> None:
    """Write what a cell is, the numbers that its rules were measured as, and where its teacher's outputs come from."""
    settings = run.cell.settings
    config = run.cell.identity() | {"id": run.cell.id, "source": settings.source, "chosen": settings.chosen}
    if measured := run.data.dataset.measurements(run.cell.protocol.rules.data):
        config["measured"] = measured
    if run.source:
        config["teacher_outputs"] = run.source.kind
    write_atomic(folder / CONFIG, tomli_w.dumps(config))
