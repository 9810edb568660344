"""Time the steps of methods, and what they consist of."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kdbench.data.batches import DeviceData
from kdbench.data.decoding.streamed import StreamedDataset
from kdbench.engine.bench import Bench, Stepper, alternate, plan_of, ratio
from kdbench.engine.loading import steady_seconds
from kdbench.experiment.registry import load_method
from kdbench.method import PLAIN
from kdbench.teachers.demand import Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Seconds of one step of a method and of its parts."""

    method: str
    outputs: str
    step: float
    ratio: float
    """Steps of the student alone, on plain views, that take as long."""
    parts: dict[str, float] | None
    """Of data, teacher, student and the method's layers, which are the lower bound of a step; what is left is the loss.
    None where a step is recorded whole."""
    loaded: float | None = None
    """Seconds of one step on the images of a loader."""


def measure(
    bench: Bench,
    methods: Sequence[str],
    rounds: int,
    observe: Callable[[str, float], None] = lambda *_: None,
    files: StreamedDataset | None = None,
) -> tuple[list[Row], float]:
    """Time every method, live and cached, against the student alone; also the seconds of a teacher's training step.

    Parameters
    ----------
    files
        As many images as the bench has, on which every method is timed as well.

    Returns
    -------
    rows, teacher
        One row for each method and source of teacher outputs.
    """
    rows = []
    device, alone = bench.options.device, bench.protocol.baseline
    whole = bench.options.compile and device.type == "cuda"
    for method in methods:
        cell = bench.cell(method)
        plan = plan_of(cell)
        # After pre-training, which may be all that has a teacher.
        reads_teacher = load_method(method).reads(cell.settings.config, "training").teacher
        works = {"alone": bench.alone_step()}
        if not whole:
            works["data"] = bench.data_step(plan)
        if plan != PLAIN and not whole:
            works["alone on its views"] = bench.alone_step(plan)
        sources = {"live": bench.source(cell)} if cell.teacher else {}
        if cell.teacher and Wanted.by(cell).cacheable:
            sources["cache"] = bench.cached(cell)
        for kind, source in sources.items():
            if not whole:
                works["layers"] = bench.layers_step(cell, source)
            if not whole and reads_teacher:
                works[f"teacher {kind}"] = bench.teacher_step(cell, source)
            works[kind] = Stepper([cell], bench.batches(plan), source, bench.options)
        times = alternate(works, rounds, device, lambda part, method=method: observe(method, part))  # type: ignore[misc]
        middle = {name: statistics.median(seconds) for name, seconds in times.items()}
        for kind in sources or ("",):
            name = kind or "alone"
            loaded = None
            if files:
                batches = bench.batches(plan, data=DeviceData(files, bench.protocol, device))
                step = Stepper([cell], batches, sources.get(kind), bench.options)
                loaded = steady_seconds(step, batches, files.num_workers, rounds)
            rows.append(
                Row(
                    method=method if kind else alone,
                    outputs=kind or "--",
                    step=middle[name],
                    ratio=ratio(times, name, "alone"),
                    parts=None if whole else _parts(middle, kind),
                    loaded=loaded,
                )
            )
    times = alternate({"teacher": bench.alone_step(student=bench.teacher)}, max(rounds // 3, 1), device)
    return rows, statistics.median(times["teacher"])


def _parts(seconds: Mapping[str, float], kind: str) -> dict[str, float]:
    student = seconds.get("alone on its views", seconds["alone"]) - seconds["data"]
    return {
        "data": seconds["data"],
        "teacher": seconds.get(f"teacher {kind}", 0.0),
        "student": student,
        "layers": seconds.get("layers", 0.0),
    }
