"""Write the notes below tables on what methods use: weight of the logit terms, views, epochs, passes of the teacher."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.analysis.comparison import ComparedPair, Comparison
from kdbench.experiment.logit_weights import UNIT, logit_weights, range_text
from kdbench.experiment.pairs import JOIN, LOGITS


def compute_notes(comparison: Comparison, pairs: Sequence[ComparedPair]) -> list[str]:
    """Return notes on methods that use more compute than others on some pairs."""
    views: dict[int, list[str]] = {}
    lengths: dict[int, list[str]] = {}
    pretraining: dict[int, list[str]] = {}
    for row in comparison.rows:
        results = [result for pair in pairs if (result := comparison.result(row, pair))]
        frames = [result.frame for result in results if len(result.frame)]
        if row.views and results:
            views.setdefault(row.views, []).append(row.label)
        if frames:
            lengths.setdefault(max(int(frame["epochs"].max()) for frame in frames), []).append(row.label)
        epochs = max((int(frame["pretraining_epochs"].max()) for frame in frames), default=0)
        if epochs:
            pretraining.setdefault(epochs, []).append(row.label)
    notes = []
    for what, counts in (("views of each image", views), ("epochs", lengths)):
        if len(counts) > 1:
            notes.append(f"unequal compute, in {what}: {_listed(counts, sorted(counts, reverse=True))}")
    for number, methods in sorted(pretraining.items()):
        verb, unit = "adds" if len(methods) == 1 else "add", "epochs" if number > 1 else "epoch"
        notes.append(f"unequal compute: {', '.join(methods)} {verb} {number} {unit} of pre-training")
    return notes + _teacher_notes(comparison, pairs)


def _teacher_notes(comparison: Comparison, pairs: Sequence[ComparedPair]) -> list[str]:
    """Return notes on forward passes of teachers that are networks, and on outputs that were read or computed."""
    passes: dict[str, list[str]] = {}
    live: list[str] = []
    cached: list[str] = []
    computed: list[str] = []
    for row in comparison.rows:
        results = [result for pair in pairs if (result := comparison.result(row, pair))]
        frames = [result.frame for result in results if len(result.frame)]
        frames = [frame for frame in frames if any(map(_is_network, frame["teacher"].iloc[0].split(JOIN)))]
        if not frames:
            continue
        share = max(float((frame["teacher_forwards"] / frame["student_views"]).max()) for frame in frames)
        (live if share else cached).append(row.label)
        if share:
            passes.setdefault(f"{share:.2g}", []).append(row.label)
        if any(frame["computed_logits"].any() for frame in frames):
            computed.append(row.label)
    notes = []
    if live and cached:
        notes.append(
            f"unequal compute: {', '.join(live)} queried the teacher live; "
            f"{', '.join(cached)} read its outputs from a cache"
        )
    if len(passes) > 1:
        usual = max(passes, key=lambda text: len(passes[text]))
        shares = _listed(passes, [*sorted(passes.keys() - {usual}, key=float, reverse=True), usual])
        notes.append(f"unequal compute, in forward passes of the teacher for each of the student: {shares}")
    if computed:
        notes.append(
            f"{', '.join(computed)}: the teacher's logits were computed from penultimate features in a cache, equal to "
            "its own up to rounding"
        )
    return notes


def _is_network(teacher: str) -> bool:
    return bool(teacher) and not teacher.startswith(LOGITS)


def _listed(labels: Mapping[Any, Sequence[str]], order: Sequence[int | str]) -> str:
    """List the labels of each of several numbers; those of the last number are the others."""
    *first, last = order
    return "; ".join([*(f"{number} for {', '.join(labels[number])}" for number in first), f"{last} for the others"])


def logit_notes(comparison: Comparison, pairs: Sequence[ComparedPair]) -> list[str]:
    """Return a note on the total weight of the terms by which students follow the teacher's logits on some pairs.

    None where no method with a teacher has such a term.
    """
    texts: dict[str, list[str]] = {}
    remarks = []
    weights = logit_weights({row.method for row in comparison.rows})
    for row in comparison.rows:
        frames = [result.frame for pair in pairs if (result := comparison.result(row, pair)) and len(result.frame)]
        if row == comparison.student_only or not frames:
            continue
        weight = weights.get(row.method)
        settings = {text for frame in frames for text in frame["settings"].unique()}
        totals = [weight.total(json.loads(text)) for text in settings] if weight else [None]
        known = [total for total in totals if total]
        texts.setdefault(range_text(known) if len(known) == len(totals) else "unknown", []).append(row.label)
        if weight and weight.note:
            remarks.append(f"{row.method}: {weight.note}")
    if not texts.keys() - {"0"}:
        return []
    if len(texts) == 1:
        listed = f"{next(iter(texts))} for {', '.join(*texts.values())}"
    else:
        listed = _listed(texts, sorted(texts, key=_largest_first))
    notes = [f"total weight of the logit terms, in units of {UNIT}: {listed}"]
    return [*notes, *([f"about these weights: {'; '.join(dict.fromkeys(remarks))}"] if remarks else [])]


def _largest_first(text: int | str) -> float:
    """Return a key by which an unknown weight comes first, and then the largest."""
    return -math.inf if text == "unknown" else -float(str(text).rpartition(" ")[2])
