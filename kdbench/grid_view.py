"""Grids on the screen: counts by pair and method, and a line for each cell that matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kdbench.grid import Grid
from kdbench.states import State, Status, explain

_STYLES = {
    State.DONE: "green",
    State.RUNNING: "cyan",
    State.QUEUED: "blue",
    State.FAILED: "red",
    State.LOST: "yellow",
    State.PLANNED: "dim",
}
_SHORT = 40
"""Lines of one state that are printed where not all are asked for."""


def headline(grid: Grid, statuses: Sequence[Status]) -> Text:
    """One line: the grid, and how many of its cells are in which state."""
    counts = Counter(status.state for status in statuses)
    text = Text(f"{grid.file.path}: {grid.session.protocol.name}, {len(statuses):,} cells: ")
    parts = [Text(f"{counts[state]:,} {state}", style=_STYLES[state]) for state in State if counts[state]]
    return text + Text(", ").join(parts)


def counts(grid: Grid, statuses: Sequence[Status], width: int) -> Table:
    """A table of pairs and methods: how many cells are done, of how many, and what the others are.

    Where that is wider than ``width``, a table of pairs and states.
    """
    states = {status.cell.id: status.state for status in statuses}
    found = {key: Counter(states[cell.id] for cell in row) for key, row in grid.by_row.items()}
    pairs = {pair: sum((found[pair, method] for method in grid.file.methods), Counter()) for pair in grid.file.pairs}
    methods = _table("teacher > student", grid.file.methods)
    for pair in grid.file.pairs:
        methods.add_row(pair.replace(">", " > "), *(_entry(found[pair, method]) for method in grid.file.methods))
    needed = Console(width=10_000).measure(methods).maximum
    if needed <= width:
        return methods
    seen = [state for state in State if any(pairs[pair][state] for pair in pairs)]
    by_state = _table("teacher > student", seen)
    for pair, own in pairs.items():
        by_state.add_row(pair.replace(">", " > "), *(Text(f"{own[state]:,}", style=_STYLES[state]) for state in seen))
    return by_state


def _table(first: str, others: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _entry(found: Counter[State]) -> Text:
    """Cells of one pair and method: those that are done, and below them those that are not simply to do."""
    total = found.total()
    text = Text(f"{found[State.DONE]}/{total}", style="green" if found[State.DONE] == total else "")
    for state in (State.RUNNING, State.QUEUED, State.FAILED, State.LOST):
        if found[state]:
            text += Text(f"\n{found[state]} {state}", style=_STYLES[state])
    return text


def lines(statuses: Sequence[Status], states: Sequence[State], *, everything: bool = False) -> list[Text]:
    """A line for each cell in some states, in the order of the states; the first of very many."""
    told = []
    for state in states:
        found = [status for status in statuses if status.state == state]
        shown = found if everything else found[:_SHORT]
        for status in shown:
            words = explain(status)
            line = Text(f"{state:<8}", style=_STYLES[state])
            told.append(line + Text(f"{status.cell}{f': {words}' if words else ''}", style="default"))
        if len(found) > len(shown):
            told.append(Text(f"{state:<8}and {len(found) - len(shown):,} more; --all shows them", style="dim"))
    return told


def picture(
    grid: Grid, statuses: Sequence[Status], teachers: Sequence[Status], width: int, note: str = ""
) -> RenderableType:
    """What a watcher sees: the counts, the teachers on their way, and the cells that run."""
    training = [status for status in teachers if status.state != State.DONE]
    running = lines(statuses, [State.RUNNING], everything=False)
    parts: list[RenderableType] = [headline(grid, statuses), counts(grid, statuses, width)]
    parts += [Text("teacher ") + line for line in lines(training, list(State), everything=False)]
    parts += running
    if note:
        parts.append(Text(note, style="dim"))
    return Group(*parts)
