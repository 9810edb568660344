"""Kinds of cells: those that differ in nothing but their seed take the same time and space."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from kdbench.experiment.cell import Cell
from kdbench.grid.states import State, Status


@final
@dataclass(frozen=True, eq=False)
class Kind:
    """Cells that differ in nothing but their seed."""

    left: tuple[Cell, ...]
    done: tuple[Cell, ...]

    @property
    def cell(self) -> Cell:
        """One of them, of those that are left if there are any."""
        return (self.left or self.done)[0]


def kinds_of(statuses: Iterable[Status]) -> tuple[Kind, ...]:
    """Sort cells into kinds."""
    texts: dict[int, str] = {}  # by id of the settings, which the cells of a row share: there may be very many cells
    found: dict[tuple[object, ...], tuple[list[Cell], list[Cell]]] = {}
    for status in {status.cell.id: status for status in statuses}.values():
        cell = status.cell
        if id(cell.settings) not in texts:
            texts[id(cell.settings)] = json.dumps(cell.settings.values(), sort_keys=True)
        key = cell.protocol.epochs, cell.teacher, cell.student, cell.method, texts[id(cell.settings)]
        left, done = found.setdefault(key, ([], []))
        (done if status.state == State.DONE else left).append(cell)
    return tuple(Kind(tuple(left), tuple(done)) for left, done in found.values())
