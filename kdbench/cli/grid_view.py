"""Lay out grids for the screen: counts by pair and method, and a line for each cell that matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from kdbench.experiment.pairs import Pair
from kdbench.grid.grid import Grid
from kdbench.grid.states import State, Status, explain
from kdbench.teachers.doubts import UNCHECKED, is_unchecked
from kdbench.utils.text import counted, printable

_STYLES = {
    State.DONE: "green",
    State.RUNNING: "cyan",
    State.QUEUED: "blue",
    State.FAILED: "red",
    State.LOST: "yellow",
    State.PLANNED: "dim",
}
_MAX_LINES = 40
"""Lines of one state that are printed without ``--all``."""


def headline(grid: Grid, statuses: Sequence[Status]) -> Text:
    """Lay out one line: the grid, and how many of its cells are in which state."""
    counts = Counter(status.state for status in statuses)
    text = Text(f"{grid.file.path}: {grid.session.protocol.name}, {counted(len(statuses), 'cell')}: ")
    parts = [Text(f"{counts[state]:,} {state}", style=_STYLES[state]) for state in State if counts[state]]
    return text + Text(", ").join(parts)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table, or where that is wider than the terminal a line for each of its rows, so that nothing is cut off."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table or the lines."""
        if _width(self.table) <= options.max_width:
            yield self.table
            return
        heads = [str(column.header) for column in self.table.columns]
        for label, *cells in zip(*(column.cells for column in self.table.columns), strict=True):
            parts = (f"{head} {cell}".strip() for head, cell in zip(heads[1:], cells, strict=True) if str(cell))
            yield Text(f"{label}: {', '.join(parts)}", overflow="fold", no_wrap=False)


def _width(table: Table) -> int:
    """Return the columns of a terminal that a table takes where nothing is wrapped."""
    return Console(width=10_000, markup=False, emoji=False).measure(table).maximum


def counts(grid: Grid, statuses: Sequence[Status], width: int) -> RenderableType:
    """Lay out a table of pairs and methods: finished cells of all cells, and the states of the others.

    Where that is wider than ``width``, a table of pairs and states; where that is too wide as well, lines.
    """
    states = {status.cell.id: status.state for status in statuses}
    by_row = {key: Counter(states[cell.id] for cell in row) for key, row in grid.by_row.items()}
    by_pair = {
        pair: sum((by_row[pair, method] for method in grid.file.methods), Counter[State]()) for pair in grid.file.pairs
    }
    table = _table("teacher > student", grid.file.methods)
    for pair in grid.file.pairs:
        table.add_row(_name(pair), *(_entry(by_row[pair, method]) for method in grid.file.methods))
    if _width(table) <= width:
        return table
    columns = [state for state in State if any(by_pair[pair][state] for pair in by_pair)]
    narrow = _table("teacher > student", columns)
    for pair, number in by_pair.items():
        narrow.add_row(_name(pair), *(Text(f"{number[state]:,}", style=_STYLES[state]) for state in columns))
    return Fitted(narrow)


def search_counts(grid: Grid, statuses: Sequence[Status]) -> Fitted:
    """Lay out a table of the stages of a search: its cells, and how many are not known before others have ended."""
    states = {status.cell.id: status.state for status in statuses}
    table = _table("search", ["done", "", "known later"])
    for name, (cells, waiting) in grid.search.stages().items():
        number = Counter(states[cell.id] for cell in cells)
        others = ", ".join(f"{number[state]:,} {state}" for state in State if number[state] and state != State.DONE)
        done = f"{number[State.DONE]}/{len(cells) + waiting}"
        table.add_row(_STAGES.get(name, name.replace("-", " ")), done, others, f"{waiting:,}" if waiting else "")
    return Fitted(table)


_STAGES = {"best": "best, with further seeds", "final": "chosen settings"}


def _name(pair: Pair) -> str:
    return f"{pair.teacher} > {pair.student}"


def _table(first: str, others: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _entry(number: Counter[State]) -> Text:
    """Lay out the cells of one pair and method: the finished ones, and below them those in other states but planned."""
    total = number.total()
    text = Text(f"{number[State.DONE]}/{total}", style="green" if number[State.DONE] == total else "")
    for state in (State.RUNNING, State.QUEUED, State.FAILED, State.LOST):
        if number[state]:
            text += Text(f"\n{number[state]} {state}", style=_STYLES[state])
    return text


def lines(statuses: Sequence[Status], states: Sequence[State], *, everything: bool = False) -> list[Text]:
    """Lay out a line for each cell in some states, in the order of the states; of very many only the first."""
    texts = []
    for state in states:
        matching = [status for status in statuses if status.state == state]
        printed = matching if everything else matching[:_MAX_LINES]
        for status in printed:
            words = explain(status)
            line = Text(f"{state:<8}", style=_STYLES[state])
            texts.append(line + Text(printable(f"{status.cell}{f': {words}' if words else ''}"), style="default"))
        if len(matching) > len(printed):
            hidden = len(matching) - len(printed)
            texts.append(Text(f"{state:<8}and {hidden:,} more: add --all to list them", style="dim"))
    return texts


def live_view(
    grid: Grid, statuses: Sequence[Status], teachers: Sequence[Status], width: int, note: str = ""
) -> RenderableType:
    """Lay out what a watcher sees: the counts, the unfinished teachers, and the running cells."""
    unfinished = [status for status in teachers if status.state != State.DONE]
    parts: list[RenderableType] = [headline(grid, statuses), counts(grid, statuses, width)]
    parts += [search_counts(grid, statuses)] if grid.search.studies else []
    parts += [Text("teacher ") + line for line in lines(unfinished, list(State))]
    parts += lines(statuses, [State.RUNNING])
    if note:
        parts.append(Text(note, style="dim"))
    return Group(*parts)


def teachers(grid: Grid, statuses: Sequence[Status]) -> Fitted:
    """Lay out a table of a grid's teachers: their accuracy and origin, or that they will be trained."""
    states = {status.cell.id: status.state for status in statuses}
    table = Table("teacher", "accuracy", "origin", box=None, pad_edge=False, header_style="bold")
    for teacher in grid.teachers.values():
        if teacher.card:
            doubt = f"; {UNCHECKED}" if is_unchecked(teacher.card.described()) else ""
            table.add_row(teacher.ref.spec, teacher.card.percent, printable(f"{teacher.card.origin}{doubt}"))
        elif teacher.cell:
            state = states[teacher.cell.id]
            words = {State.PLANNED: "will be trained", State.DONE: "trained"}.get(state, f"will be trained, {state}")
            table.add_row(str(teacher.ref.name), "", Text(words))
    return Fitted(table)
