"""Time a few steps of the cells of a grid that have never been run, and the forward pass of teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from kdbench.data.fabricated import fabricated
from kdbench.data.groups import Layout
from kdbench.engine.bench import Bench, alternate, forward_seconds
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell, TeacherRef
from kdbench.experiment.pairs import Pair
from kdbench.grid.estimate import GridEstimate, parallel_workers, this_device
from kdbench.grid.grid import Grid
from kdbench.grid.measured import Measured, step_key, view_key
from kdbench.grid.shapes import data_shape
from kdbench.grid.variants import Variant
from kdbench.teachers.demand import Wanted
from kdbench.utils.text import one_line

Observe = Callable[[str, int, int], None]
"""Called with what is timed next, how much was timed and how much there is to time; it may raise to stop."""


def measure(
    grid: Grid,
    estimate: GridEstimate,
    scratch: Path,
    rounds: int = 5,
    observe: Observe = lambda *_: None,
    check: Callable[[], None] = lambda: None,
) -> GridEstimate:
    """Time the variants whose time is unknown, and the building of caches, on the session's device.

    Each time is kept at once, and what was kept before is not timed again: see :mod:`kdbench.grid.measured`. What
    cannot be timed, as a method that does not support its pair, is left out with the reason.

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
    check
        Called between two steps; it may raise to stop.
    """
    session = grid.session
    protocol, data = session.protocol, data_shape(session)
    dataset = session.given or fabricated(protocol)
    steps = Layout(data.num_images, protocol.rules.schedule).steps
    cached = {need.teacher.ref for need in estimate.caches if need.used}
    build = {need.teacher.ref.network for need in estimate.to_build}
    measured = Measured(grid, this_device(session.device))
    cells: dict[Variant, float] = {}
    views: dict[str, float] = {}
    to_time: list[Variant] = []
    for variant in estimate.unknown:
        seconds = measured.get(_step_key(variant, cached))
        if seconds is None:
            to_time.append(variant)
        else:
            cells[variant] = seconds * steps * len(variant.cell.epochs)
    for network in sorted(build):
        if (seconds := measured.get(view_key(network, protocol))) is not None:
            views[network] = seconds
    count, total = 0, len(to_time) + len(build - views.keys())
    failed: dict[Variant, str] = {}
    for pair, variants in _by_pair(grid, to_time, build - views.keys()).items():
        check()
        try:
            bench = Bench(protocol, dataset, pair, scratch, replace(session.options, runs=scratch))
        except Exception as error:
            failed |= dict.fromkeys(variants, _reason(error))
            continue
        for variant in variants:
            cell = replace(variant.cell, seed=1)
            observe(variant.name, count, total)
            try:
                step = bench.cached_step(cell) if _from_cache(cell, cached) else bench.live_step(cell)
                seconds = median(alternate({"step": step}, rounds, session.device, lambda _: check())["step"])
            except Exception as error:
                failed[variant] = _reason(error)
                continue
            measured.add(_step_key(variant, cached), seconds)
            cells[variant] = seconds * steps * len(cell.epochs)
            count += 1
        if bench.teacher in build - views.keys():
            observe(f"cache of {bench.teacher}", count, total)
            views[bench.teacher] = forward_seconds(bench, lambda _: check())
            measured.add(view_key(bench.teacher, protocol), views[bench.teacher])
            count += 1
    from_records = estimate.speed
    speed = replace(
        from_records,
        cells={**from_records.cells, **cells},
        measured=frozenset(cells),
        failed=failed,
        views=views,
        parallel=parallel_workers(session.device.type, torch.get_num_threads()),
    )
    return replace(estimate, speed=speed)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"


def _from_cache(cell: Cell, cached: set[TeacherRef]) -> bool:
    return cell.teacher in cached and Wanted.by(cell).cacheable


def _step_key(variant: Variant, cached: set[TeacherRef]) -> str:
    return step_key(variant.cell, from_cache=_from_cache(variant.cell, cached))


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
