"""Time a few steps of the cells of a grid that have never been run, and the forward pass of teachers."""

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
from kdbench.grid.variants import Variant
from kdbench.teachers.demand import Wanted

Observe = Callable[[str, float], None]
"""Called with what is being timed and the fraction of the work that is done, in [0, 1]."""


def measure(
    grid: Grid, estimate: GridEstimate, scratch: Path, rounds: int = 5, observe: Observe = lambda *_: None
) -> GridEstimate:
    """Time the variants whose time is unknown, and the building of caches, on the session's device.

    Images are random where the data set has a name, teachers are untrained; see :mod:`kdbench.engine.bench`. Only
    training is timed, without the evaluation after each epoch.

    Parameters
    ----------
    estimate
        Made of this device's records.
    scratch
        A folder for caches of random numbers.
    rounds
        Steps that are timed of each variant.

    Raises
    ------
    UserError
        A method does not support the networks of its pair.
    """
    session = grid.session
    protocol, data = session.protocol, data_shape(session)
    dataset = session.given or random_dataset(protocol.dataset)
    steps = num_steps(data.num_images, protocol.batch_size)
    cached = {need.teacher.ref for need in estimate.caches if need.used}
    build = {need.teacher.ref.network for need in estimate.to_build}
    count, total = 0, len(estimate.unknown) + len(build)
    cells: dict[Variant, float] = {}
    views: dict[str, float] = {}
    for pair, variants in _by_pair(grid, estimate.unknown, build).items():
        bench = Bench(protocol, dataset, pair, scratch, replace(session.options, runs=scratch))
        for variant in variants:
            cell = replace(variant.cell, seed=1)
            observe(f"{cell.method} {pair if cell.teacher else cell.student}", count / total)
            from_cache = cell.teacher in cached and Wanted.by(cell).cacheable
            step = bench.cached_step(cell) if from_cache else bench.live_step(cell)
            seconds = median(alternate({"step": step}, rounds, session.device)["step"])
            cells[variant] = seconds * steps * len(cell.epochs)
            count += 1
        if bench.teacher in build - views.keys():
            observe(f"cache of {bench.teacher}", count / total)
            views[bench.teacher] = forward_seconds(bench)
            count += 1
    observe("", 1.0)
    from_records = estimate.speed
    speed = replace(from_records, cells={**from_records.cells, **cells}, measured=frozenset(cells), views=views)
    return replace(estimate, speed=speed)


def _by_pair(grid: Grid, variants: Iterable[Variant], teachers: set[str]) -> dict[Pair, list[Variant]]:
    """Group variants by the pair whose bench times them; each of ``teachers`` has a pair, even without a variant."""
    pairs = [pair.networks for pair in grid.file.pairs]
    groups: dict[Pair, list[Variant]] = {}
    without_teacher = []
    for variant in variants:
        if variant.cell.teacher:
            groups.setdefault(Pair.of(variant.cell.teacher.network, variant.cell.student), []).append(variant)
        else:
            without_teacher.append(variant)
    for teacher in sorted(teachers):
        if not any(pair.teacher.network == teacher for pair in groups):
            groups[next(pair for pair in pairs if pair.teacher.network == teacher)] = []
    if without_teacher:  # any bench does
        groups.setdefault(next(iter(groups), pairs[0]), []).extend(without_teacher)
    return groups
