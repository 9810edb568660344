"""A process that computes cells with another one, which leads: it is told which, and neither writes nor prints.

``python -m kdbench.engine.follow`` is started by :class:`kdbench.engine.team.Team` and reads its work from standard
input; a process that torchrun or Slurm has started calls :func:`follow`.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from kdbench.engine.devices import check_started
from kdbench.engine.outcomes import Held, Outcomes
from kdbench.engine.session import Session
from kdbench.engine.team import joined, meet_leader
from kdbench.engine.train import train_held
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.cell import Cell
from kdbench.teachers.outputs import Kind
from kdbench.teachers.sources import TeacherSource
from kdbench.utils.device import pick_device, prepare_process
from kdbench.utils.leases import Superseded
from kdbench.utils.ranks import RankLost, Ranks
from kdbench.utils.signals import Stop


def follow_launch(session: Session, cells: Sequence[Cell]) -> bool:
    """Help the leading process with these cells, if torchrun or Slurm has started this one to help another one.

    Returns
    -------
    bool
        Whether it was: the cells are done then, or left.
    """
    place = check_started(session.devices)
    if not place or not place.rank:
        return False
    follow(session, cells, joined(session.device))
    return True


def follow(session: Session, cells: Sequence[Cell], ranks: Ranks) -> None:
    """Help with the cells that the leading process names, some of these, until it has none left.

    Raises
    ------
    RankLost
        Another process has ended.
    """
    by_id = {cell.id: cell for cell in cells}
    with Stop() as stop:
        while kinds := ranks.tell(None):
            if missing := kinds.keys() - by_id.keys():
                raise RankLost(f"cell {min(missing)[:8]} is not known here: was another command typed?")
            try:
                _help(session, [by_id[name] for name in kinds], kinds, ranks, stop)
            except Interrupted:  # of all processes, at the same step
                return


def _help(session: Session, cells: Sequence[Cell], kinds: Mapping[str, Kind | None], ranks: Ranks, stop: Stop) -> None:
    options = replace(session.options, ranks=ranks)
    held = [Held(cell, cell.folder(session.runs), _may_not_write) for cell in cells]
    with torch.random.fork_rng([session.device] if session.device.type == "cuda" else []):
        train_held(
            held,
            lambda: session.device_data,
            lambda cell: _source(session, cell, kinds[cell.id]),
            options,
            Outcomes(cells),
            stop,
        )


def _source(session: Session, cell: Cell, kind: Kind | None) -> TeacherSource | None:
    """Return where the outputs of a cell's teacher come from: it is where the leading process has them from."""
    return session.teachers.source(cell.teacher, kind) if cell.teacher and kind else None


def _may_not_write() -> None:
    raise Superseded("another process writes for this one")


def main() -> None:
    """Follow the process that has started this one."""
    arguments: dict[str, Any]
    arguments, cells = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by the process that started this one
    try:
        if arguments["device"].type == "cuda":
            arguments["device"] = pick_device(f"cuda:{os.environ['LOCAL_RANK']}")
            torch.cuda.set_device(arguments["device"])
        session = Session(**arguments)
        prepare_process(session.device)
        ranks = meet_leader(session.device)
        try:
            follow(session, cells, ranks)
        finally:
            ranks.leave()
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
