"""Grids on the screen: counts by pair and method, and a line for each cell that matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
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


def counts(grid: Grid, statuses: Sequence[Status]) -> Table:
    """A table of pairs and methods: how many cells are done, of how many, and what the others are."""
    states = {status.cell.id: status.state for status in statuses}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("teacher > student")
    for method in grid.file.methods:
        table.add_column(method, justify="right", no_wrap=True)
    for pair in grid.file.pairs:
        entries = []
        for method in grid.file.methods:
            row = grid.by_row[pair, method]
            found = Counter(states[cell.id] for cell in row)
            text = Text(f"{found[State.DONE]}/{len(row)}", style="green" if found[State.DONE] == len(row) else "")
            for state in (State.RUNNING, State.QUEUED, State.FAILED, State.LOST):
                if found[state]:
                    text += Text(f" {found[state]} {state}", style=_STYLES[state])
            entries.append(text)
        table.add_row(pair.replace(">", " > "), *entries)
    return table


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


def picture(grid: Grid, statuses: Sequence[Status], teachers: Sequence[Status], note: str = "") -> RenderableType:
    """What a watcher sees: the counts, the teachers on their way, and the cells that run."""
    training = [status for status in teachers if status.state != State.DONE]
    running = lines(statuses, [State.RUNNING], everything=False)
    parts: list[RenderableType] = [headline(grid, statuses), counts(grid, statuses)]
    parts += [Text("teacher ") + line for line in lines(training, list(State), everything=False)]
    parts += running
    if note:
        parts.append(Text(note, style="dim"))
    return Group(*parts)
