"""Variants: cells of a grid that differ only in their seed, or in what a search tries, take as much time and space."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import final

from kdbench.experiment.cell import Cell
from kdbench.experiment.pairs import Pair
from kdbench.grid.states import State, Status
from kdbench.teachers.demand import Wanted


@final
@dataclass(frozen=True, eq=False)
class Variant:
    """The cells that differ only in their seed, or in what a search tries."""

    left: tuple[Cell, ...]
    """Not finished. For a cell of a search that is not known yet, there is one that is as costly, and may repeat."""
    done: tuple[Cell, ...]

    @property
    def cell(self) -> Cell:
        """Return a representative, unfinished if any is."""
        return (self.left or self.done)[0]

    @property
    def name(self) -> str:
        """Return method and pair, or method and student."""
        cell = self.cell
        pair = Pair(cell.teacher.name, cell.student) if cell.teacher else cell.student
        return f"{cell.method} {pair}"


def variants_of(
    statuses: Iterable[Status], later: Iterable[Cell] = (), searched: Mapping[str, Collection[str]] | None = None
) -> tuple[Variant, ...]:
    """Group cells by all that they are but their seed and what is searched, in the order of each group's first cell.

    Parameters
    ----------
    later
        Cells in place of those that are not known yet: each counts.
    searched
        Names of the settings that a search tries, by the method.
    """
    texts: dict[int, str] = {}  # by id of the settings, which the cells of a row share
    groups: dict[tuple[object, ...], tuple[list[Cell], list[Cell]]] = {}
    states = {status.cell.id: status.state == State.DONE for status in statuses}
    cells = {status.cell.id: status.cell for status in statuses}
    known = [(cell, states[key]) for key, cell in cells.items()]
    for cell, is_done in (*known, *((cell, False) for cell in later)):
        if id(cell.settings) not in texts:
            texts[id(cell.settings)] = _alike(cell, (searched or {}).get(cell.method, ()))
        rules = cell.protocol.epochs, cell.protocol.rules.evaluation.validation
        left, done = groups.setdefault(
            (rules, cell.teacher, cell.student_label, cell.method, texts[id(cell.settings)]), ([], [])
        )
        (done if is_done else left).append(cell)
    return tuple(Variant(tuple(left), tuple(done)) for left, done in groups.values())


def _alike(cell: Cell, searched: Collection[str]) -> str:
    """Return a text that cells share whose settings differ only in what is searched, and that want the same views."""
    wanted = Wanted.by(cell)
    settings = {name: value for name, value in cell.settings.values().items() if name not in searched}
    return f"{json.dumps(settings, sort_keys=True)} {wanted.plan} {sorted(wanted.parts)}"
