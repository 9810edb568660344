"""Times some steps of the kinds of cells of a grid that have never been run, and the forward pass of teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median

from kdbench.data.batches import num_steps
from kdbench.data.datasets import random_dataset
from kdbench.engine.bench import Bench, alternate, forward_seconds
from kdbench.experiment.pairs import Pair
from kdbench.grid.estimate import GridEstimate
from kdbench.grid.grid import Grid
from kdbench.grid.shapes import data_shape
from kdbench.grid.variants import Kind
from kdbench.teachers.demand import Wanted

Observe = Callable[[str, float], None]
"""Is told what is being timed, and the part of all that is done, in [0, 1]."""


def measure(
    grid: Grid, estimate: GridEstimate, scratch: Path, rounds: int = 5, observe: Observe = lambda *_: None
) -> GridEstimate:
    """Time the kinds whose time is not known, and the building of caches, on the session's device.

    Images are random where the data set has a name, teachers are untrained; see :mod:`kdbench.engine.bench`. What is
    measured of a cell is its training, without the evaluation after each epoch.

    Parameters
    ----------
    estimate
        Made of this device's records.
    scratch
        A folder for caches of random numbers.
    rounds
        Steps that are timed of each kind.

    Raises
    ------
    UserError
        A method cannot work on the networks of its pair.
    """
    session = grid.session
    protocol, data = session.protocol, data_shape(session)
    dataset = session.given or random_dataset(protocol.dataset)
    steps = num_steps(data.num_images, protocol.batch_size)
    cached = {need.teacher.ref for need in estimate.caches if need.used}
    build = {need.teacher.ref.network for need in estimate.to_build}
    count, total = 0, len(estimate.unknown) + len(build)
    cells: dict[Kind, float] = {}
    views: dict[str, float] = {}
    for pair, kinds in _by_pair(grid, estimate.unknown, build).items():
        bench = Bench(protocol, dataset, pair, scratch, replace(session.options, runs=scratch))
        for kind in kinds:
            cell = replace(kind.cell, seed=1)
            observe(f"{cell.method} {pair if cell.teacher else cell.student}", count / total)
            from_cache = cell.teacher in cached and Wanted.by(cell).cacheable
            step = bench.cached_step(cell) if from_cache else bench.live_step(cell)
            cells[kind] = median(alternate({"step": step}, rounds, session.device)["step"]) * steps * len(cell.epochs)
            count += 1
        if bench.teacher in build - views.keys():
            observe(f"cache of {bench.teacher}", count / total)
            views[bench.teacher] = forward_seconds(bench)
            count += 1
    observe("", 1.0)
    known = estimate.speed
    speed = replace(known, cells={**known.cells, **cells}, measured=frozenset(cells), views=views)
    return replace(estimate, speed=speed)


def _by_pair(grid: Grid, kinds: Iterable[Kind], teachers: set[str]) -> dict[Pair, list[Kind]]:
    """Sort kinds by the pair whose bench times them; every one of some teachers has a pair, be it without a kind."""
    pairs = [pair.networks for pair in grid.file.pairs]
    found: dict[Pair, list[Kind]] = {}
    alone = []
    for kind in kinds:
        if kind.cell.teacher:
            found.setdefault(Pair.of(kind.cell.teacher.network, kind.cell.student), []).append(kind)
        else:
            alone.append(kind)
    for teacher in sorted(teachers):
        if not any(pair.teacher.network == teacher for pair in found):
            found[next(pair for pair in pairs if pair.teacher.network == teacher)] = []
    if alone:  # any bench does
        found.setdefault(next(iter(found), pairs[0]), []).extend(alone)
    return found
