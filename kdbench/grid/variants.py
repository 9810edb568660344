"""Variants: the cells of a grid that differ only in their seed take the same time and space."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from kdbench.experiment.cell import Cell
from kdbench.experiment.pairs import Pair
from kdbench.grid.states import State, Status


@final
@dataclass(frozen=True, eq=False)
class Variant:
    """The cells that differ only in their seed."""

    left: tuple[Cell, ...]
    """Not finished."""
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


def variants_of(statuses: Iterable[Status]) -> tuple[Variant, ...]:
    """Group cells by all that they are but their seed, in the order of each group's first cell."""
    settings_texts: dict[int, str] = {}  # by id of the settings, which the cells of a row share
    groups: dict[tuple[object, ...], tuple[list[Cell], list[Cell]]] = {}
    for status in {status.cell.id: status for status in statuses}.values():
        cell = status.cell
        if id(cell.settings) not in settings_texts:
            settings_texts[id(cell.settings)] = json.dumps(cell.settings.values(), sort_keys=True)
        key = cell.protocol.epochs, cell.teacher, cell.student_label, cell.method, settings_texts[id(cell.settings)]
        left, done = groups.setdefault(key, ([], []))
        (done if status.state == State.DONE else left).append(cell)
    return tuple(Variant(tuple(left), tuple(done)) for left, done in groups.values())
