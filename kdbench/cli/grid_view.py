"""Grids on the screen: counts by pair and method, a line for each cell that matters, and what is still needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kdbench.experiment.pairs import Pair
from kdbench.grid.cache_needs import CacheNeed
from kdbench.grid.estimate import GridEstimate
from kdbench.grid.grid import Grid
from kdbench.grid.states import State, Status, explain
from kdbench.utils.text import clock, size

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
        methods.add_row(_name(pair), *(_entry(found[pair, method]) for method in grid.file.methods))
    needed = Console(width=10_000).measure(methods).maximum
    if needed <= width:
        return methods
    seen = [state for state in State if any(pairs[pair][state] for pair in pairs)]
    by_state = _table("teacher > student", seen)
    for pair, own in pairs.items():
        by_state.add_row(_name(pair), *(Text(f"{own[state]:,}", style=_STYLES[state]) for state in seen))
    return by_state


def _name(pair: Pair) -> str:
    return f"{pair.teacher} > {pair.student}"


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
    parts: list[RenderableType] = [headline(grid, statuses), counts(grid, statuses, width)]
    parts += [Text("teacher ") + line for line in lines(training, list(State))]
    parts += lines(statuses, [State.RUNNING])
    if note:
        parts.append(Text(note, style="dim"))
    return Group(*parts)


def teachers(grid: Grid, statuses: Sequence[Status]) -> Table:
    """A table of a grid's teachers: how good they are and where they come from, or that they will be trained."""
    states = {status.cell.id: status.state for status in statuses}
    table = Table("teacher", "accuracy", "origin", box=None, pad_edge=False, header_style="bold")
    for teacher in grid.teachers.values():
        if teacher.card:
            table.add_row(teacher.ref.spec, f"{teacher.card.accuracy:.2f} %", teacher.card.origin)
        elif teacher.cell:
            state = states[teacher.cell.id]
            words = "" if state == State.PLANNED else f", {state}" if state != State.DONE else ", and is ready"
            table.add_row(teacher.ref.network, "", Text(f"will be trained{words}"))
    return table


def caches(needs: Sequence[CacheNeed]) -> Group:
    """A table of the teacher caches that the cells that are left want, and why some will not be built."""
    table = Table("teacher cache", box=None, pad_edge=False, header_style="bold")
    for name in ("views", "size", "on disk"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column()
    notes = []
    for need in needs:
        there = size((need.views - need.missing) * need.row_bytes) if need.missing < need.views else "nothing"
        spec = need.teacher.ref.spec if need.teacher.card else need.teacher.ref.network
        notes.append("" if need.used else "too large" if need.worthwhile else "saves nothing")
        table.add_row(spec, f"{need.views:,.0f}", size(need.bytes), there, notes[-1])
    told = []
    if "saves nothing" in notes:
        told.append("saves nothing: no view is visited twice, and --cache auto asks the live teacher")
    if "too large" in notes:
        told.append(
            "too large: over half of the disk that is left free, and --cache auto asks the live teacher; on another "
            "disk, by --runs DIR, it may be built"
        )
    return Group(table, *told)


def time_lines(estimate: GridEstimate) -> list[str]:
    """How long the cells that are left will take, or why that is not known."""
    speed, unknown, total = estimate.speed, len(estimate.unknown), len(estimate.kinds)
    if not total:
        return ["time: nothing is left to run"]
    told = []
    if unknown:
        where = f" on {speed.device}" if speed.device else ""
        told.append(
            f"time: not known for {unknown} of {total} kinds of cells, since none has been run{where}: --measure times "
            "some steps of each here"
        )
    if unknown < total:
        what = f"the other {total - unknown} kinds take " if unknown else ""
        told.append(
            f"time: {what}about {clock(estimate.seconds)} on one worker ({speed.device}); at best "
            f"{clock(estimate.seconds / 4)} with --jobs 4, if each worker has as much of the machine"
        )
    if speed.measured:
        told.append(
            f"time: {len(speed.measured)} of {total} kinds are known by some steps of training alone, without the "
            "evaluation after each epoch"
        )
    if unknown < total and estimate.to_build and speed.views is None:
        told.append("time: building the teacher caches comes on top: --measure times it here")
    if speed.elsewhere:
        told.append(f"time: {speed.elsewhere} records of other devices are left out")
    return told


def disk_lines(grid: Grid, estimate: GridEstimate) -> list[str]:
    """How much disk the cells that are left will take, and what to do if that is more than is free."""
    disk, runs = estimate.disk, grid.session.runs
    if not disk.num_cells:
        return [f"disk: {size(disk.free)} are free in {runs}"]
    told = [
        f"disk: about {size(disk.cells)} for {disk.num_cells:,} cells, {size(disk.caches)} for teacher caches and "
        f"{size(disk.state)} for the state of a cell in progress; {size(disk.free)} are free in {runs}"
    ]
    if disk.needed > disk.free:
        without = disk.needed - disk.caches
        off = f", or go without caches with --cache off, which needs {size(without)}" if without < disk.free else ""
        told.append(f"disk: {size(disk.needed)} do not fit: name a folder on another disk with --runs DIR{off}")
    return told
