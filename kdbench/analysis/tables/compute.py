"""Write the notes below tables on what methods use: weight of the logit terms, views, epochs, passes of the teacher."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdbench.analysis.comparison import ComparedPair, Comparison, Row
from kdbench.experiment.logit_weights import UNIT, USUAL, Range, logit_weights, range_text
from kdbench.experiment.pairs import JOIN, LOGITS
from kdbench.utils.text import counted

_HEAVY = 2 * USUAL
"""Tables of many pairs name the rows whose logit terms weigh more."""
_TOTAL, _UNKNOWN = f"total weight of the logit terms, in units of {UNIT}", "unknown"


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
        verb = "adds" if len(methods) == 1 else "add"
        notes.append(f"unequal compute: {', '.join(methods)} {verb} {counted(number, 'epoch')} of pre-training")
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
    """Return notes on the total weight of each row's terms by which students follow the teacher's logits on some pairs.

    None where no method with a teacher has such a term.
    """
    weights = _row_weights(comparison, pairs)
    labels = _labels_by_weight(weights)
    if not labels.keys() - {"0"}:
        return []
    order = sorted(labels, key=_largest_first)
    listed = _listed(labels, order) if len(order) > 1 else f"{order[0]} for {', '.join(labels[order[0]])}"
    return [f"{_TOTAL}: {listed}", *_remarks(weights)]


def heavy_logit_notes(comparison: Comparison, pairs: Sequence[ComparedPair]) -> list[str]:
    """Return the notes of `logit_notes` on the rows whose weight is or may be more than twice `USUAL`."""
    weights = {
        row: weight
        for row, weight in _row_weights(comparison, pairs).items()
        if weight.span is None or weight.span[1] > _HEAVY
    }
    if not weights:
        return []
    labels = _labels_by_weight(weights)
    listed = "; ".join(f"{text} for {', '.join(labels[text])}" for text in sorted(labels, key=_largest_first))
    rule = f"where it is or may be more than twice that of plain KD ({USUAL})"
    advice = "; plain KD, too, may gain from such a weight" if labels.keys() - {_UNKNOWN} else ""
    return [f"{_TOTAL}, {rule}: {listed}{advice}", *_remarks(weights)]


class _RowWeight(NamedTuple):
    """The total weight of a row's logit terms."""

    span: Range | None
    """Lowest and highest; None if it is unknown."""
    note: str


def _row_weights(comparison: Comparison, pairs: Sequence[ComparedPair]) -> dict[Row, _RowWeight]:
    """Return the weights of the rows that have a teacher and records on some pairs."""
    weights = logit_weights({row.method for row in comparison.rows})
    row_weights = {}
    for row in comparison.rows:
        frames = [result.frame for pair in pairs if (result := comparison.result(row, pair)) and len(result.frame)]
        if row == comparison.student_only or not frames:
            continue
        weight = weights.get(row.method)
        settings = {text for frame in frames for text in frame["settings"].unique()}
        spans = [weight.total(json.loads(text)) for text in settings] if weight else [None]
        known = [span for span in spans if span]
        span = (min(low for low, _ in known), max(high for _, high in known)) if len(known) == len(spans) else None
        row_weights[row] = _RowWeight(span, weight.note if weight else "")
    return row_weights


def _labels_by_weight(weights: Mapping[Row, _RowWeight]) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for row, weight in weights.items():
        labels.setdefault(range_text(weight.span) if weight.span else _UNKNOWN, []).append(row.label)
    return labels


def _remarks(weights: Mapping[Row, _RowWeight]) -> list[str]:
    """Return a note with what the files of methods say about their weights."""
    remarks = [f"{row.name}: {weight.note}" for row, weight in weights.items() if weight.note]
    return [f"about these weights: {'; '.join(dict.fromkeys(remarks))}"] if remarks else []


def _largest_first(text: int | str) -> float:
    """Return a key by which an unknown weight comes first, and then the largest."""
    return -math.inf if text == _UNKNOWN else -float(str(text).rpartition(" ")[2])
