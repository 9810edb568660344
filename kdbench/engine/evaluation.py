"""Evaluation of runs in lockstep: the test images are made once for all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdbench.data.images import EvaluationImages
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.run import Run
from kdbench.engine.tally import VALIDATION
from kdbench.models.evaluate import Evaluation
from kdbench.utils.device import Span
from kdbench.utils.ranks import ALONE, Ranks


@torch.inference_mode()
def evaluate_runs(
    runs: Sequence[Run],
    images: EvaluationImages,
    outcomes: Outcomes,
    ranks: Ranks = ALONE,
    *,
    validation: Tensor | None = None,
) -> Mapping[str, dict[str, float]]:
    """Measure the students of runs on the test set; leave them in eval mode.

    Processes share the images. Each run is charged what the images took, and its own forward passes. After its last
    epoch, its tally is given the predictions, and the counts of each class.

    Parameters
    ----------
    validation
        Labels ``(N,)`` of the images, where they are not those of the test set but held-out ones: of them, accuracy and
        likelihood are measured.

    Returns
    -------
    Mapping
        Metrics by the id of the cell; without the runs that failed, as all do where there are no images.
    """
    evaluations: dict[str, Evaluation] = {}
    spans: dict[str, list[Span]] = {run.cell.id: [] for run in runs}
    for run in runs:
        with outcomes.attempt(run):
            evaluations[run.cell.id] = _evaluation(run, validation)
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
                if run.in_last_epoch and validation is None:
                    run.tally.per_class = evaluation.per_class(ranks)
                    run.tally.predictions = evaluation.predictions(ranks) if run.options.predictions else None
    return results


def validation_metrics(results: Mapping[str, float]) -> dict[str, float]:
    """Return what is kept of the results of held-out images, by the names that rows of metrics have for it."""
    return {f"{VALIDATION}{name}": value for name, value in results.items() if name in {"top1", "nll"}}


def _evaluation(run: Run, validation: Tensor | None) -> Evaluation:
    dataset = run.data.dataset
    if validation is not None:
        return Evaluation(validation, dataset.num_classes)
    teacher_logits = run.source.test_logits if run.source else None
    keep = run.in_last_epoch and run.options.predictions
    return Evaluation(dataset.test_labels, dataset.num_classes, teacher_logits, keep=keep)
