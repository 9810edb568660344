"""Find how long a student alone trains at the compute of a method, by counted passes of student and teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final, get_args

from kdbench.data.images import DataShape
from kdbench.experiment.cell import Cell
from kdbench.experiment.pairs import Pair
from kdbench.experiment.registry import load_method
from kdbench.grid.grid import Grid
from kdbench.grid.shapes import forward_flops, shape_at
from kdbench.method import PhaseName
from kdbench.utils.text import counted

_STUDENT_PASSES = 3
"""Forward passes that cost as much as a forward and a backward pass, which computes two gradients for each product."""


@final
@dataclass(frozen=True, slots=True)
class Passes:
    """How often each training image goes through the networks in all epochs of a cell, once for each of its views."""

    student: int
    """Forward and backward."""
    teacher: int
    """Forward, as if no output came from a cache; through each member of an ensemble."""

    @classmethod
    def of(cls, cell: Cell) -> Passes:
        """Count the passes of a cell, pre-training among them."""
        method, config = load_method(cell.method), cell.settings.config
        epochs = dict.fromkeys(get_args(PhaseName), cell.protocol.epochs)
        epochs["pretraining"] = len(cell.epochs) - cell.protocol.epochs
        reads = {phase: method.reads(config, phase) for phase, number in epochs.items() if number}
        views = method.views(config).num_views
        return cls(
            views * sum(epochs[phase] for phase, each in reads.items() if each.student),
            views * sum(epochs[phase] for phase, each in reads.items() if each.teacher),
        )


def equal_epochs(grid: Grid, data: DataShape) -> tuple[dict[Pair, dict[int, list[str]]], dict[Pair, str]]:
    """Find the epochs of the baseline that cost as much as each method of a grid, rounded up.

    Costs are the multiplications and additions of networks: heads and losses of methods are not in them.

    Returns
    -------
    epochs, reasons
        By pair, the methods by their number of epochs, ascending; and why the passes of a pair could not be counted.
    """
    flops: dict[tuple[str, int | None], int] = {}

    def cost_of(network: str, side: int | None) -> int:
        if (network, side) not in flops:
            flops[network, side] = forward_flops(network, shape_at(data, side))
        return flops[network, side]

    epochs: dict[Pair, dict[int, list[str]]] = {}
    reasons: dict[Pair, str] = {}
    for pair in grid.file.pairs:
        numbers: dict[int, dict[str, None]] = {}
        try:
            for cell in _methods(grid, pair):
                teacher = sum(cost_of(member.ref.network, member.side) for member in grid.networks(cell))
                number = _epochs(cell, cost_of(cell.student, None), teacher)
                numbers.setdefault(number, {})[_name(cell)] = None
        except Exception as error:  # of a network of the user's
            reasons[pair] = str(error) or type(error).__name__
            continue
        if numbers:
            epochs[pair] = {number: list(numbers[number]) for number in sorted(numbers)}
    return epochs, reasons


def _methods(grid: Grid, pair: Pair) -> list[Cell]:
    """Return a cell of each method and its settings, but for the baseline."""
    rows = [grid.by_row[pair, method] for method in grid.file.methods if method != grid.session.protocol.baseline]
    return [cell for row in rows for cell in row if cell.seed == row[0].seed]


def _epochs(cell: Cell, student: int, teacher: int) -> int:
    """Return the epochs of a student alone that cost no less than a cell, by the operations of their forward passes."""
    passes = Passes.of(cell)
    return passes.student - passes.teacher * teacher // (-_STUDENT_PASSES * student)


def _name(cell: Cell) -> str:
    return f"{cell.method} for {counted(cell.protocol.epochs, 'epoch')}" if cell.names_epochs else cell.method
