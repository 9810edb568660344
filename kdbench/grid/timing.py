"""Time a few steps of the cells of a grid that have never been run, and the forward pass of teachers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch

from kdbench.data.decoding.streamed import StreamedDataset
from kdbench.data.fabricated import fabricated
from kdbench.data.groups import Layout
from kdbench.engine.bench import Bench, alternate, forward_seconds
from kdbench.engine.loading import loading_seconds
from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell, TeacherRef
from kdbench.experiment.pairs import Pair, TeacherSpec
from kdbench.grid.estimate import GridEstimate, Speed, parallel_workers, this_device
from kdbench.grid.grid import Grid, GridTeacher
from kdbench.grid.measured import Measured, loading_key, memory_key, step_key, view_key
from kdbench.grid.shapes import num_trained
from kdbench.grid.variants import Variant
from kdbench.method import ViewPlan
from kdbench.teachers.demand import Wanted
from kdbench.utils.device import peak_memory_mb, reset_peak_memory
from kdbench.utils.text import one_line

_K = TypeVar("_K", bound=Hashable)
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

    Images are random where the data set has a name or is streamed, teachers are untrained; see
    :mod:`kdbench.engine.bench`. Only training is timed, without the evaluation after each epoch. Where image files are
    named, their loader is timed as well: a step then takes as long as the slower of both.

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
    session, protocol = grid.session, grid.session.protocol
    given = session.given
    streamed = given if isinstance(given, StreamedDataset) else None
    dataset = given if given and not streamed else fabricated(protocol, given)
    measured = Measured(grid, this_device(session.device))
    cached = {need.teacher.ref for need in estimate.caches if need.used}
    to_time = [variant for variant in estimate.unknown if measured.get(_key(step_key, variant, cached)) is None]
    teachers = {need.teacher.sized: need.teacher for need in estimate.to_build}
    to_ask = {name: teacher for name, teacher in teachers.items() if measured.get(view_key(name, protocol)) is None}
    count, total = 0, len(to_time) + len(to_ask)
    failed: dict[Variant, str] = {}
    for (pair, sides), variants in _by_pair(grid, to_time, to_ask.values()).items():
        check()
        try:
            bench = Bench(protocol, dataset, pair, scratch, replace(session.options, runs=scratch), sides)
        except Exception as error:
            failed |= dict.fromkeys(variants, _reason(error))
            continue
        for variant in variants:
            observe(variant.name, count, total)
            try:
                seconds, peak = _step(bench, variant, cached, rounds, check)
            except Exception as error:
                failed[variant] = _reason(error)
                continue
            measured.add(_key(step_key, variant, cached), seconds)
            if peak is not None:
                measured.add(_key(memory_key, variant, cached), peak)
            count += 1
        asked = [name for name, teacher in to_ask.items() if _key_of([teacher], pair.student) == (pair, sides)]
        for name in asked:
            del to_ask[name]
            observe(f"cache of {name}", count, total)
            measured.add(view_key(name, protocol), forward_seconds(bench, lambda _: check()))
            count += 1
    steps = {variant: measured.get(_key(step_key, variant, cached)) for variant in estimate.unknown}
    peaks = {variant: measured.get(_key(memory_key, variant, cached)) for variant in estimate.unknown}
    views = {name: measured.get(view_key(name, protocol)) for name in teachers}
    speed = replace(
        estimate.speed,
        failed=failed,
        memory={**estimate.speed.memory, **_known(peaks)},
        views=_known(views),
        parallel=parallel_workers(session.device.type, torch.get_num_threads()),
    )
    loading = dict[int, float]()
    if streamed:
        observe("the loader", count, total)
        numbers = {_num_strong(variant) for variant in _known(steps)}
        loading = {number: _loading(measured, streamed, session, number, check) for number in sorted(numbers)}
    return replace(estimate, speed=_with_steps(speed, _known(steps), loading, session))


def _step(
    bench: Bench, variant: Variant, cached: set[TeacherRef], rounds: int, check: Callable[[], None]
) -> tuple[float, float | None]:
    """Return the seconds of a step, and the peak memory of a GPU in bytes."""
    cell, device = replace(variant.cell, seed=1), bench.options.device
    reset_peak_memory(device)
    step = bench.cached_step(cell) if _from_cache(cell, cached) else bench.live_step(cell)
    seconds = median(alternate({"step": step}, rounds, device, lambda _: check())["step"])
    return seconds, 2**20 * peak_memory_mb(device) if device.type == "cuda" else None


def _loading(
    measured: Measured, dataset: StreamedDataset, session: Session, num_strong: int, check: Callable[[], None]
) -> float:
    """Return the seconds in which the loader makes the views of one image."""
    key = loading_key(dataset, num_strong)
    kept, plan = measured.get(key), ViewPlan(num_strong=num_strong)
    if kept is None:
        kept = loading_seconds(dataset, session.protocol, session.device, plan, lambda _: check())
        measured.add(key, kept)
    return kept


def _with_steps(speed: Speed, steps: Mapping[Variant, float], loading: Mapping[int, float], session: Session) -> Speed:
    """Add the time of cells by that of their steps, which may wait for the loader."""
    cells, starved = dict(speed.cells), set()
    for variant, seconds in steps.items():
        schedule = variant.cell.protocol.rules.schedule
        wait = loading.get(_num_strong(variant), 0.0) * schedule.batch_size
        steps_per_epoch = Layout(num_trained(session, variant.cell.protocol), schedule).steps
        cells[variant] = max(seconds, wait) * steps_per_epoch * len(variant.cell.epochs)
        if wait > seconds:
            starved.add(variant)
    return replace(
        speed,
        cells=cells,
        measured=frozenset(steps),
        images_per_second=1 / loading[min(loading)] if loading else None,
        starved=frozenset(starved),
    )


def _known(values: Mapping[_K, float | None]) -> dict[_K, float]:
    return {key: value for key, value in values.items() if value is not None}


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"


def _from_cache(cell: Cell, cached: set[TeacherRef]) -> bool:
    networks = [member for member in cell.teacher.members if not member.is_file] if cell.teacher else []
    return bool(networks) and cached.issuperset(networks) and Wanted.by(cell).cacheable


def _num_strong(variant: Variant) -> int:
    return Wanted.by(variant.cell).plan.num_strong


def _key(name: Callable[..., str], variant: Variant, cached: set[TeacherRef]) -> str:
    return name(variant.cell, from_cache=_from_cache(variant.cell, cached))


_Place = tuple[Pair, tuple[int | None, ...]]
"""A pair, and the sides of the images of its teacher's members, in pixels; None is the student's."""


def _by_pair(grid: Grid, variants: Iterable[Variant], teachers: Iterable[GridTeacher]) -> dict[_Place, list[Variant]]:
    """Group variants by the pair whose bench times them; each of ``teachers`` has a pair, even without a variant."""
    groups: dict[_Place, list[Variant]] = {}
    without_teacher = []
    for variant in variants:
        if variant.cell.teacher:
            members = [grid.teachers[teacher] for teacher in variant.cell.teacher_ids]
            groups.setdefault(_key_of(members, variant.cell.student), []).append(variant)
        else:
            without_teacher.append(variant)
    student = grid.file.pairs[0].student
    for teacher in teachers:
        key = _key_of([teacher], student)
        if not any((pair.teacher, sides) == (key[0].teacher, key[1]) for pair, sides in groups):
            groups[key] = []
    if without_teacher:  # any bench does
        pair = Pair.of(student, student)
        groups.setdefault(next(iter(groups), (pair, (None,))), []).extend(without_teacher)
    return groups


def _key_of(members: Sequence[GridTeacher], student: str) -> _Place:
    teacher = TeacherSpec.joined(TeacherSpec(member.ref.network) for member in members)
    return Pair(teacher, student), tuple(member.side for member in members)
