"""Lay out what a grid needs for the screen: caches, time, memory and disk, and what a fair control would need."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from kdbench.cli.grid_view import Fitted
from kdbench.data.decoding.loader import shared_memory
from kdbench.data.decoding.processes import PREFETCH
from kdbench.data.decoding.streamed import StreamedDataset
from kdbench.grid.cache_needs import CacheNeed
from kdbench.grid.equal_compute import equal_epochs
from kdbench.grid.estimate import GridEstimate
from kdbench.grid.grid import Grid
from kdbench.grid.shapes import data_shape
from kdbench.teachers.demand import Wanted
from kdbench.utils.resources import SHARED_MEMORY
from kdbench.utils.text import clock, counted, size

_WORKERS = 8
"""Processes of the example; the job's number is its own."""
_OWN_BYTES = 20_000_000
"""Memory that a process which decodes has for itself, measured as private pages while it made batches of 64 crops."""


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
        spec = need.teacher.ref.spec if need.teacher.card else str(need.teacher.ref.name)
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


def equal_lines(grid: Grid) -> list[str]:
    """Describe how long the student alone trains at the compute of each method, and the line that adds these rows."""
    baseline, usual = grid.session.protocol.baseline, grid.session.protocol.epochs
    by_pair, reasons = equal_epochs(grid, data_shape(grid.session))
    texts = []
    for pair, by_epochs in by_pair.items():
        first, *others = (f"{counted(num, 'epoch')} {{}}as {', '.join(names)}" for num, names in by_epochs.items())
        parts = "; for ".join((first.format("costs as much "), *(each.format("") for each in others)))
        texts.append(f"equal compute: {pair}: {baseline} for {parts}")
    if texts:
        texts.append(
            "equal compute: by the multiplications of the networks' passes; a backward pass counts as two forward "
            "passes, and the teacher as queried in every step"
        )
    numbers = [sorted({usual, *by_epochs}) for by_epochs in by_pair.values()]
    if numbers and not set(numbers[0]) <= {usual, *grid.file.epochs_of.get(baseline, ())}:
        where = "the file" if all(each == numbers[0] for each in numbers) else f"a file for {next(iter(by_pair))} alone"
        texts.append(
            f"equal compute: [method.{baseline}] epochs = {numbers[0]} in {where} adds these rows to the table"
        )
    return texts + [f"equal compute: {pair}: unknown: {reason}" for pair, reason in reasons.items()]


def time_lines(estimate: GridEstimate) -> list[str]:
    """Describe how long the unfinished cells will take, or why that is unknown."""
    speed, unknown, total = estimate.speed, len(estimate.unknown), len(estimate.variants)
    known = total - unknown - len(speed.failed)
    if not total:
        return ["time: nothing is left to run"]
    texts, variants = [], counted(total, "variant")
    if unknown:
        where = f" on {speed.device}" if speed.device else ""
        texts.append(
            f"time: unknown for {unknown} of {variants} (cells that differ only in their seed), none of "
            f"which was run{where}: add --measure to time a few steps of each here"
        )
    if speed.failed:
        texts.append(f"time: {len(speed.failed)} of {variants} could not be timed, and are not included")
    if known:
        which = f"the other {counted(known, 'variant')}: " if known < total else ""
        text = f"time: {which}about {clock(estimate.seconds)} with one worker ({speed.device})"
        if speed.parallel > 1:
            best = clock(estimate.seconds / speed.parallel)
            text += f"; at best {best} with --jobs {speed.parallel}, if that leaves each worker as fast"
        texts.append(text)
    if speed.measured:
        texts.append(
            f"time: {len(speed.measured)} of {variants} were timed on a few training steps, without the "
            "evaluation after each epoch"
        )
        if speed.images_per_second:
            texts.append(
                f"time: {speed.images_per_second:,.0f} images a second are decoded on this machine; "
                f"{len(speed.starved)} of {counted(len(speed.measured), 'variant')} wait for them"
            )
        elif estimate.is_streamed:
            texts.append("time: timed on noise, without decoding: name the images with --data KIND:DIR to time it too")
        if estimate.is_streamed and estimate.to_build:
            texts.append("time: building the teacher caches is timed without decoding")
    if known and estimate.to_build and speed.views is None:
        texts.append("time: building the teacher caches is not included: add --measure to time it here")
    if speed.elsewhere:
        texts.append(f"time: {counted(speed.elsewhere, 'record')} of other devices left out")
    return texts


def search_lines(grid: Grid, estimate: GridEstimate) -> list[str]:
    """Describe what is left of a search beside what is left of the runs that are compared; nothing without a search."""
    if not grid.search.studies:
        return []
    teachers = {cell.id for cell in grid.to_train}
    parts = []
    for name, is_search in (("the search", True), ("the runs that are compared", False)):
        numbers = {
            variant: sum(cell.id not in teachers for cell in variant.left)
            for variant in estimate.variants
            if (variant.cell.protocol.rules.evaluation.validation > 0) == is_search  # what is compared holds none out
        }
        epochs = sum(number * variant.cell.protocol.epochs for variant, number in numbers.items())
        times = [number * estimate.speed.cells.get(variant, math.nan) for variant, number in numbers.items() if number]
        about = "" if math.isnan(sum(times)) or not times else f", about {clock(sum(times))}"
        parts.append(f"{counted(sum(numbers.values()), 'cell')} ({counted(epochs, 'epoch')}{about}) for {name}")
    return [f"cost: {', '.join(parts)}"]


def memory_lines(grid: Grid, estimate: GridEstimate) -> list[str]:
    """Describe the memory that a cell needs on its device, and the one in which a streamed cell's images wait."""
    texts = []
    peaks = {
        variant: estimate.speed.memory[variant] for variant in estimate.variants if variant in estimate.speed.memory
    }
    if peaks:
        most = max(peaks, key=lambda variant: peaks[variant])
        texts.append(f"memory: {size(peaks[most])} of a GPU at most, measured ({most.name})")
    needs = {variant: need for variant, need in estimate.needs.items() if variant not in peaks}
    if needs:
        most = max(needs, key=lambda variant: needs[variant].device)
        need, number = needs[most], grid.session.protocol.rules.schedule.images_together
        of_method = (
            f", {size(need.method)} of it what {most.cell.method} keeps" if 3 * need.method > need.device else ""
        )
        texts.append(
            f"memory: at least {size(need.device)} of the device for a cell, and for each further one in lockstep "
            f"({most.name}{of_method}): weights, gradients and what the optimiser keeps, by their shapes; the "
            f"activations of {counted(number, 'image')} are not in it: --measure on a GPU measures the peak"
        )
    if estimate.variants and estimate.is_streamed:
        texts += _host_lines(grid, estimate)
    return texts


def _host_lines(grid: Grid, estimate: GridEstimate) -> list[str]:
    """Describe what the processes that decode need of the host."""
    rules, given = grid.session.protocol.rules, grid.session.given
    side = rules.augmentation.size
    assert side
    most = max(estimate.variants, key=lambda variant: Wanted.by(variant.cell).plan.num_strong)
    num_strong = Wanted.by(most.cell).plan.num_strong
    sides = {teacher.side for teacher in grid.teachers.values() if teacher.side} | {side}
    batch = (1 + num_strong) * rules.schedule.images_together * 3 * sum(each**2 for each in sides)
    of_method = f", with the strong views of {most.cell.method}" if num_strong else ""
    texts = [
        f"host: {size(shared_memory(_WORKERS, batch))} of {SHARED_MEMORY} with {_WORKERS} processes that decode: "
        f"{PREFETCH} batches of {size(batch)} each{of_method}; each has about {size(_OWN_BYTES)} of its own where "
        "images have 500 x 375 pixels; --workers says how many there are, by default the CPUs of the job"
    ]
    if isinstance(given, StreamedDataset):
        files = given.files
        num_images = len(files.train) + len(files.test)
        texts.append(f"host: {size(files.train.nbytes + files.test.nbytes)} for the list of {num_images:,} images")
    return texts


def disk_lines(grid: Grid, estimate: GridEstimate) -> list[str]:
    """Describe how much disk the unfinished cells will take, and what to do if that is more than is free."""
    disk, runs = estimate.disk, grid.session.runs
    if not disk.num_cells:
        return [f"disk: {size(disk.free)} free in {runs}"]
    most = max(estimate.needs, key=lambda variant: estimate.needs[variant].state, default=None)
    kept = ""
    if most and 3 * estimate.needs[most].method > estimate.needs[most].state:
        kept = f" ({most.cell.method})"
    texts = [
        f"disk: about {size(disk.cells)} for {counted(disk.num_cells, 'cell')} ({size(disk.predictions)} of it "
        f"predictions, left out with --no-predictions), {size(disk.caches)} for teacher "
        f"caches and {size(disk.state)} for the states of a cell in progress{kept}; {size(disk.free)} free in {runs}"
    ]
    if disk.needed > disk.free:
        without = disk.needed - disk.caches
        off = f", or do without caches with --cache off, which needs {size(without)}" if without < disk.free else ""
        texts.append(f"disk: {size(disk.needed)} do not fit: name a folder on another disk with --runs DIR{off}")
    return texts
