"""A process that helps another one to compute cells: it is told which, and neither decides, writes nor prints.

``python -m kdbench.engine.follow`` reads the arguments of :meth:`kdbench.engine.session.Session.open` from its standard
input, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch

from kdbench.data.batches import Batches
from kdbench.engine.lockstep import Lockstep
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.progress import quietly
from kdbench.engine.run import Run
from kdbench.engine.session import Session
from kdbench.errors import Interrupted
from kdbench.experiment.cell import Cell
from kdbench.teachers.outputs import Kind
from kdbench.utils.leases import Superseded
from kdbench.utils.signals import Stop


@final
@dataclass(frozen=True, slots=True)
class Work:
    """Cells of one protocol and seed that are computed in lockstep, by all processes."""

    cells: tuple[Cell, ...]
    kinds: Mapping[str, Kind | None]
    """Where the teacher outputs of each come from, by its id."""
    states: Mapping[str, dict[str, Any]]
    """What those that are resumed begin with, by the id."""


def follow(session: Session) -> None:
    """Help with each work that the leading process names, until there is none."""
    while (work := session.ranks.from_leader(None)) is not None:
        assert isinstance(work, Work)
        _help(session, work)


def _help(session: Session, work: Work) -> None:
    options, device = session.options, session.device
    outcomes = Outcomes(work.cells)
    devices = [device] if device.type == "cuda" else []
    with Stop() as stop, torch.random.fork_rng(devices):
        batches = Batches(session.device_data, work.cells[0].protocol, work.cells[0].seed, session.ranks)
        runs: dict[str, Run] = {}
        for cell in work.cells:
            with outcomes.of(cell):
                run = Run(cell, batches, session.source(cell, work.kinds[cell.id]), options, _may_not_write)
                if cell.id in work.states:
                    run.load(work.states[cell.id])
                runs[cell.id] = run
        outcomes.agree(work.cells, runs, session.ranks)
        Lockstep(list(runs.values()), batches, outcomes, options).train(stop, quietly)


def _may_not_write() -> None:
    raise Superseded("another process writes for this one")


def main() -> None:
    """Follow the process that has started this one."""
    session = Session.open(**json.load(sys.stdin))
    try:
        follow(session)
    except Interrupted as stopped:
        sys.exit(128 + stopped.signum)


if __name__ == "__main__":
    main()
