"""Lay out grids for the screen: counts by pair and method, a line for each cell that matters, and what is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from kdbench.experiment.pairs import Pair
from kdbench.grid.cache_needs import CacheNeed
from kdbench.grid.estimate import GridEstimate
from kdbench.grid.grid import Grid
from kdbench.grid.states import State, Status, explain
from kdbench.utils.text import clock, counted, printable, size

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
            table.add_row(teacher.ref.spec, f"{teacher.card.accuracy:.2f} %", printable(teacher.card.origin))
        elif teacher.cell:
            state = states[teacher.cell.id]
            words = {State.PLANNED: "will be trained", State.DONE: "trained"}.get(state, f"will be trained, {state}")
            table.add_row(teacher.ref.network, "", Text(words))
    return Fitted(table)


def caches(needs: Sequence[CacheNeed]) -> Group:
    """Lay out a table of the teacher caches that unfinished cells can read, and why some will not be built."""
    table = Table("teacher cache", box=None, pad_edge=False, header_style="bold")
    for name in ("views", "size", "on disk"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    notes = []
    for need in needs:
        on_disk = size((need.views - need.missing) * need.row_bytes) if need.missing < need.views else "nothing"
        spec = need.teacher.ref.spec if need.teacher.card else need.teacher.ref.network
        notes.append("" if need.used else "too large" if need.worthwhile else "saves nothing")
        # Worth a word where one method takes a third of it or more.
        large = need.largest_reader and need.bytes_without < 2 / 3 * need.bytes
        without = f"{size(need.bytes_without)} without {need.largest_reader}" if large else ""
        table.add_row(spec, f"{need.views:,.0f}", size(need.bytes), on_disk, without, notes[-1])
    remarks = []
    if "saves nothing" in notes:
        remarks.append("saves nothing: no view is seen twice, so --cache auto queries the live teacher")
    if "too large" in notes:
        remarks.append(
            "too large: more than half of the disk that the caches above it leave free, so --cache auto queries the "
            "live teacher; to build it, name a folder on another disk with --runs DIR"
        )
    return Group(Fitted(table), *remarks)


def time_lines(estimate: GridEstimate) -> list[str]:
    """Describe how long the unfinished cells will take, or why that is unknown."""
    speed, unknown, total = estimate.speed, len(estimate.unknown), len(estimate.variants)
    known = total - unknown - len(speed.failed)
    if not total:
        return ["time: nothing is left to run"]
    texts = []
    if unknown:
        where = f" on {speed.device}" if speed.device else ""
        texts.append(
            f"time: unknown for {unknown} of {total} variants (cells that differ only in their seed), none of which "
            f"was run{where}: add --measure to time a few steps of each here"
        )
    if speed.failed:
        texts.append(f"time: {len(speed.failed)} of {total} variants could not be timed, and are not included")
    if known:
        which = f"the other {counted(known, 'variant')}: " if known < total else ""
        text = f"time: {which}about {clock(estimate.seconds)} with one worker ({speed.device})"
        if speed.parallel > 1:
            best = clock(estimate.seconds / speed.parallel)
            text += f"; at best {best} with --jobs {speed.parallel}, if that leaves each worker as fast"
        texts.append(text)
    if speed.measured:
        texts.append(
            f"time: {len(speed.measured)} of {total} variants were timed on a few training steps, without the "
            "evaluation after each epoch"
        )
    if known and estimate.to_build and speed.views is None:
        texts.append("time: building the teacher caches is not included: add --measure to time it here")
    if speed.elsewhere:
        texts.append(f"time: {counted(speed.elsewhere, 'record')} of other devices left out")
    return texts


def disk_lines(grid: Grid, estimate: GridEstimate) -> list[str]:
    """Describe how much disk the unfinished cells will take, and what to do if that is more than is free."""
    disk, runs = estimate.disk, grid.session.runs
    if not disk.num_cells:
        return [f"disk: {size(disk.free)} free in {runs}"]
    texts = [
        f"disk: about {size(disk.cells)} for {counted(disk.num_cells, 'cell')}, {size(disk.caches)} for teacher "
        f"caches and {size(disk.state)} for the state of a cell in progress; {size(disk.free)} free in {runs}"
    ]
    if disk.needed > disk.free:
        without = disk.needed - disk.caches
        off = f", or do without caches with --cache off, which needs {size(without)}" if without < disk.free else ""
        texts.append(f"disk: {size(disk.needed)} do not fit: name a folder on another disk with --runs DIR{off}")
    return texts
