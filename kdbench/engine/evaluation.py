"""Evaluation of runs in lockstep: the test images are made once for all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from kdbench.data.images import EvaluationImages
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.run import Run
from kdbench.models.evaluate import Evaluation
from kdbench.utils.device import Span
from kdbench.utils.ranks import ALONE, Ranks


@torch.inference_mode()
def evaluate_runs(
    runs: Sequence[Run], images: EvaluationImages, outcomes: Outcomes, ranks: Ranks = ALONE
) -> Mapping[str, dict[str, float]]:
    """Measure the students of runs on the test set; leave them in eval mode.

    Processes share the images. Each run is charged what the images took, and its own forward passes. After its last
    epoch, its tally is given the predictions, and the counts of each class.

    Returns
    -------
    Mapping
        Metrics by the id of the cell; without the runs that failed, as all do where there are no images.
    """
    evaluations: dict[str, Evaluation] = {}
    spans: dict[str, list[Span]] = {run.cell.id: [] for run in runs}
    for run in runs:
        with outcomes.attempt(run):
            teacher_logits = run.source.test_logits if run.source else None
            dataset, keep = run.data.dataset, run.in_last_epoch and run.options.predictions
            evaluation = Evaluation(dataset.test_labels, dataset.num_classes, teacher_logits, keep=keep)
            evaluations[run.cell.id] = evaluation
            run.student.eval()
    making, started = 0.0, time.monotonic()
    try:
        for place, pixels in images.batches(ranks.rank, ranks.size):
            making += time.monotonic() - started
            for run in runs:
                if not outcomes.has(run.cell):
                    with outcomes.attempt(run), Span(pixels.device) as forward:
                        evaluations[run.cell.id].add(run.student.logits(pixels).float(), place)
                    spans[run.cell.id].append(forward)
            started = time.monotonic()
    except Exception as error:
        for run in runs:
            if not outcomes.has(run.cell):
                outcomes.fail(run, error)
    for run in runs:
        if not outcomes.has(run.cell):
            with outcomes.attempt(run):
                started = time.monotonic()
                evaluations[run.cell.id].look()  # waits for the device
                looking = time.monotonic() - started
                forwards = sum(span.seconds() for span in spans[run.cell.id])
                run.tally.seconds["evaluate"] += making + forwards + looking
    outcomes.agree(runs, ranks)
    results: dict[str, dict[str, float]] = {}
    for run in runs:
        if not outcomes.has(run.cell):
            with outcomes.attempt(run):
                evaluation = evaluations[run.cell.id]
                results[run.cell.id] = evaluation.results(ranks)
                if run.in_last_epoch:
                    run.tally.per_class = evaluation.per_class(ranks)
                    run.tally.predictions = evaluation.predictions(ranks) if run.options.predictions else None
    return results
