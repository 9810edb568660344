"""Lay out the times of ``kdbench bench`` as a table, with the hours of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdbench.analysis.tables.table import Table, words
from kdbench.engine.bench import Bench, forward_seconds
from kdbench.engine.bench_methods import Row
from kdbench.teachers.demand import Wanted, visited
from kdbench.teachers.pairs import PoolPairs
from kdbench.utils.text import counted


def table(
    bench: Bench, rows: Sequence[Row], teacher: float, seeds: int, machine: str, loading: float | None = None
) -> Table:
    """Lay out the times of one pair, with the hours that a grid of these methods will take.

    Parameters
    ----------
    teacher
        Seconds of a step that trains the teacher.
    seeds
        Number of seeds of the grid.
    machine
        Name of the device, for the title.
    loading
        Seconds in which the loader makes a crop, where methods were timed on image files too.
    """
    protocol = bench.protocol
    batch, num_images = protocol.batch_size, len(bench.data.labels)
    steps = {row.method: bench.batches().steps * len(bench.cell(row.method).epochs) for row in rows}
    lines = [
        {
            "method": row.method,
            "teacher outputs": row.outputs,
            "images/s": f"{batch / row.step:.0f}",
            **({"from files": f"{batch / row.loaded:.0f}"} if row.loaded else {}),
            "x student only": f"{row.ratio:.2f}",
            **_shares(row),
            "h/cell": f"{_seconds(row) * steps[row.method] / 3600:.2f}",
        }
        for row in rows
    ]
    live = {row.method: _seconds(row) for row in rows if row.outputs != "cache"}
    best = live | {row.method: _seconds(row) for row in rows if row.outputs == "cache"}
    build, views = _build_hours(bench, rows, seeds)
    grid = f"{counted(len(live), 'method')} x {counted(seeds, 'seed')} x {counted(protocol.epochs, 'epoch')}"
    hours = {
        name: seeds * sum(step * steps[method] for method, step in step_seconds.items()) / 3600
        for name, step_seconds in (("live", live), ("cached", best))
    }
    training = teacher * bench.batches().steps * protocol.epochs / 3600
    overrides = ", ".join(f"{k}={v}" for k, v in protocol.overrides().items())
    return Table(
        f"{protocol.name}{f', with {overrides}' if overrides else ''}: {bench.teacher} > {bench.student} on {machine}",
        (tuple(lines[0]),),
        tuple(words(*line.values()) for line in lines),
        (
            f"medians of whole steps of {batch} of {num_images:,} random images"
            + (
                "; parts of a method are timed in turn"
                if rows[0].parts
                else ", each a CUDA graph without parts to time"
            ),
            *([_of_files(loading)] if loading else []),
            "x student only: relative to a student-only step on plain views",
            *([_OF_PARTS] if rows[0].parts else []),
            f"{grid}: {hours['live']:.1f} h with a live teacher, {hours['cached']:.1f} h with a cache",
            f"before that: {training:.1f} h to train the teacher, {build:.1f} h to build the cache ({views:,} views)",
        ),
    )


_OF_PARTS = (
    "layers: passes of those that the method adds; loss: what is left of a step; "
    "x lower bound: relative to data, teacher, student and layers"
)


def _shares(row: Row) -> dict[str, str]:
    """Return the parts of a step in per cent; none where a step has no parts that can be timed."""
    if row.parts is None:
        return {}
    bound = sum(row.parts.values())
    parts = row.parts | {"loss": max(row.step - bound, 0.0)}
    shares = {f"{name} %": f"{100 * seconds / row.step:.0f}" for name, seconds in parts.items()}
    return shares | {"x lower bound": f"{row.step / bound:.2f}"}


def _seconds(row: Row) -> float:
    """Return the seconds of a step as training does it."""
    return row.loaded or row.step


def _of_files(loading: float) -> str:
    return (
        f"from files: with their loader, which alone gives {1 / loading:.0f} images/s; where that is the lower number, "
        "decoding is the limit; hours of cells are those from files"
    )


def _build_hours(bench: Bench, rows: Sequence[Row], seeds: int) -> tuple[float, int]:
    """Return the hours that building a grid's cache takes, and its number of views."""
    cached = [Wanted.by(bench.cell(row.method)) for row in rows if row.outputs == "cache"]
    numbering = bench.data.images.numbering
    if not cached or not numbering.repeats:  # no cache is worth its while
        return 0.0, 0
    pool = PoolPairs.of(numbering, len(bench.data.labels), [want.plan for want in cached])
    if pool is None:
        wanted = [replace(want, seed=seed) for seed in range(1, seeds + 1) for want in cached]
        views = len(visited(wanted, bench.data))
    else:
        views = len(pool)
    return views * forward_seconds(bench) / 3600, views
