"""The claims ledger: what was published, what was found here under the same protocol, and whether they agree."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from kdbench.analysis.comparison import ComparedPair, Comparison, Epoch, Row, settings_text
from kdbench.analysis.published.tables import NOT_OURS
from kdbench.analysis.published.values import Published, PublishedValue
from kdbench.analysis.stats.paired import Interval, t_interval, t_quantile
from kdbench.analysis.tables.entries import BEST_ON_TEST, LEVEL, accuracy, fixed, interval_entry
from kdbench.analysis.tables.table import MISSING, Entry, Table, words
from kdbench.experiment.protocol import load_protocol, protocol_names

Verdict = Literal["agrees", "below", "above", "not comparable"]
_TEACHER = 0.1
"""Percentage points by which a teacher may differ from the published one without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A published value beside ours."""

    pair: ComparedPair
    row: Row
    value: PublishedValue
    ours: dict[int, float]
    """Top-1 in percent by seed, of the epoch that the source reports."""
    epoch: Epoch
    difference: Interval | None
    """Ours minus the published value, in percentage points; None where they are not compared."""
    verdict: Verdict
    why: str
    """Why they are not comparable."""
    remarks: tuple[str, ...]
    """What else a reader must know."""


def claims(comparison: Comparison, published: Published) -> list[Claim]:
    """Hold our results against what was published of the same pairs and methods."""
    name = comparison.rules["name"]
    if name not in protocol_names() or load_protocol(name).dataset != published.dataset:
        return []
    found = []
    for pair in comparison.pairs:
        for row in comparison.rows:
            for value in published.values_for(f"{pair.teacher}>{pair.student}", row.method, name):
                claim = _claim(comparison, pair, row, value)
                if claim:
                    found.append(claim)
    return found


def _claim(comparison: Comparison, pair: ComparedPair, row: Row, value: PublishedValue) -> Claim | None:
    result = comparison.result(row, pair)
    if not result or result.frame.empty:
        return None
    epoch: Epoch = "best" if value.epoch == "best" else "last"
    ours = result.values(epoch)
    why = _why_not(comparison, row, value, len(ours))
    difference = None if why else against_published(ours, value)
    return Claim(
        pair=pair,
        row=row,
        value=value,
        ours=ours,
        epoch=epoch,
        difference=difference,
        verdict=_verdict(difference),
        why=why,
        remarks=tuple(_remarks(comparison, pair, value)) if not why else (),
    )


def against_published(ours: dict[int, float], value: PublishedValue) -> Interval:
    """The difference of our mean to a published one, with an interval for it.

    Welch's where the source gives a standard deviation and the number of runs. Otherwise our standard deviation is
    taken for theirs, and one run where the number is not known: the interval in which another mean is expected.

    Parameters
    ----------
    ours
        Top-1 in percent by seed, of two seeds at least.
    """
    own = t_interval(list(ours.values()), LEVEL / 100)
    mean, n = own.mean - value.top1, value.n or 1
    if value.std and value.n and value.n > 1:
        parts = own.sd**2 / own.n, value.std**2 / value.n
        degrees = sum(parts) ** 2 / (parts[0] ** 2 / (own.n - 1) + parts[1] ** 2 / (value.n - 1))
        error = math.sqrt(sum(parts))
    else:
        degrees, error = own.n - 1, own.sd * math.sqrt(1 / own.n + 1 / n)
    half = t_quantile(degrees, LEVEL / 100) * error
    return Interval(mean, mean - half, mean + half, own.sd, own.n, LEVEL / 100)


def ledger_table(comparison: Comparison, found: list[Claim]) -> Table:
    """One row for each published value."""
    rows = []
    before: tuple[ComparedPair, Row] | None = None
    for claim in found:
        value, fresh = claim.value, (claim.pair, claim.row) != before
        before = claim.pair, claim.row
        published = f"{fixed(value.top1)}" + (f" ± {fixed(value.std)}" if value.std else "")
        numbers = {"top-1 %": fixed(value.top1)} | ({"sd": fixed(value.std)} if value.std else {})
        runs, source = str(value.n) if value.n else "?", ", ".join((value.source, *value.also_in[:1]))
        more = f" + {len(value.also_in) - 1}" if len(value.also_in) > 1 else ""
        rows.append(
            (
                *words(claim.pair.name if fresh else "", claim.row.label if fresh else ""),
                Entry(published, numbers),
                *words(runs, value.epoch, source + more),
                accuracy(claim.ours, claim.epoch),
                *words(str(len(claim.ours))),
                _difference(claim),
                Entry(claim.verdict, notes=tuple(filter(None, (claim.why, *claim.remarks)))),
            )
        )
    counts = Counter(claim.verdict for claim in found)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("agrees", "below", "above", "not comparable"))
    heads = (
        "pair",
        "method",
        "published %",
        "n",
        "epoch",
        "source",
        "ours %",
        "n",
        f"difference [{LEVEL} %]",
        "verdict",
    )
    return Table(
        f"{comparison.title}: published and found",
        (heads,),
        tuple(rows),
        (
            f"{len(found)} published values: {told}",
            f"difference: ours minus published in percentage points; agrees: its {LEVEL} % interval holds zero",
            "interval: Welch's where a source gives deviation and runs; else our deviation is taken for theirs, of one "
            "run where their number is not known",
            "a source of best epochs is held against our best epochs, any other against our last",
            *([BEST_ON_TEST] if any(claim.epoch == "best" for claim in found) else []),
            NOT_OURS,
        ),
        num_labels=2,
    )


def _why_not(comparison: Comparison, row: Row, value: PublishedValue, n: int) -> str:
    if comparison.overrides:
        return f"our rules differ from the protocol: {settings_text(comparison.overrides)}"
    if row.chosen:
        return f"settings were chosen here: {settings_text(row.chosen)}"
    if value.differs:
        return value.differs
    return "one seed of ours has no interval" if n < 2 else ""


def _remarks(comparison: Comparison, pair: ComparedPair, value: PublishedValue) -> list[str]:
    told = [value.note] if value.note else []
    theirs = load_protocol(comparison.rules["name"]).accuracy.get(pair.teacher)
    if theirs is not None and abs(pair.teacher_accuracy - theirs) > _TEACHER:
        told.append(f"our {pair.teacher} has {fixed(pair.teacher_accuracy)} %, theirs {fixed(theirs)} %")
    return told


def _verdict(difference: Interval | None) -> Verdict:
    if difference is None:
        return "not comparable"
    if difference.excludes_zero:
        return "above" if difference.mean > 0 else "below"
    return "agrees"


def _difference(claim: Claim) -> Entry:
    return interval_entry(claim.difference) if claim.difference else Entry(MISSING)
