"""The claims ledger: published values, our results under the same protocol, and whether they agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kdbench.analysis.comparison import ComparedPair, Comparison, Reported, Row, settings_text
from kdbench.analysis.published.tables import NOT_OURS
from kdbench.analysis.published.values import Published, PublishedValue
from kdbench.analysis.stats.paired import Interval, t_interval, t_quantile
from kdbench.analysis.tables.entries import BEST_ON_TEST, LEVEL, accuracy, fixed, interval_entry
from kdbench.analysis.tables.table import MISSING, Entry, Table, words
from kdbench.experiment.protocol import load_protocol, protocol_names
from kdbench.utils.text import counted

Verdict = Literal["agrees", "below", "above", "not comparable"]
_TEACHER = 0.1
"""Percentage points by which our teacher may differ from the published one without a remark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A published value and our result."""

    pair: ComparedPair
    row: Row
    value: PublishedValue
    ours: dict[int, float]
    """Our top-1 accuracies in percent, by seed, of the epoch that the source reports."""
    reported: Reported
    difference: Interval | None
    """Our mean minus the published value, in percentage points; None if they are not comparable."""
    verdict: Verdict
    why: str
    """Why the values are not comparable; empty if they are."""
    remarks: tuple[str, ...]
    """Further notes for the reader."""


def claims(comparison: Comparison, published: Published) -> list[Claim]:
    """Compare our results with the published values of the same pairs and methods."""
    name = comparison.rules["name"]
    if name not in protocol_names() or load_protocol(name).dataset != published.dataset:
        return []
    candidates = [
        _claim(comparison, pair, row, value)
        for pair in comparison.pairs
        for row in comparison.rows
        for value in published.values_for(f"{pair.teacher}>{pair.student}", row.method, name)
    ]
    return [claim for claim in candidates if claim]


def _claim(comparison: Comparison, pair: ComparedPair, row: Row, value: PublishedValue) -> Claim | None:
    result = comparison.result(row, pair)
    if not result or result.frame.empty:
        return None
    reported: Reported = "best" if value.epoch == "best" else "last"
    ours = result.values(reported)
    why = _why_not(comparison, row, value, len(ours))
    difference = None if why else against_published(ours, value)
    if difference and not difference.high > difference.low:
        why, difference = "equal accuracies of our seeds give no interval", None
    return Claim(
        pair=pair,
        row=row,
        value=value,
        ours=ours,
        reported=reported,
        difference=difference,
        verdict=_verdict(difference),
        why=why,
        remarks=tuple(_remarks(comparison, pair, value, comparable=not why)),
    )


def against_published(ours: dict[int, float], value: PublishedValue) -> Interval:
    """Return the difference of our mean to a published value, with its interval.

    The interval is Welch's if the source gives its standard deviation and number of runs. Otherwise it is a prediction
    interval for another mean: our standard deviation stands in for theirs, and one run for an unknown number of runs.

    Parameters
    ----------
    ours
        Top-1 in percent by seed, for two or more seeds.

    Returns
    -------
    Interval
        ``low`` and ``high`` are nan if ours are equal and must stand in for theirs.
    """
    interval = t_interval(list(ours.values()), LEVEL / 100)
    difference, n = interval.mean - value.top1, value.n or 1
    if value.std and value.n and value.n > 1:
        parts = interval.sd**2 / interval.n, value.std**2 / value.n
        degrees = sum(parts) ** 2 / (parts[0] ** 2 / (interval.n - 1) + parts[1] ** 2 / (value.n - 1))
        error = math.sqrt(sum(parts))
    else:
        degrees, error = interval.n - 1, interval.sd * math.sqrt(1 / interval.n + 1 / n)
    half = t_quantile(degrees, LEVEL / 100) * error if error > 0 else math.nan
    return Interval(difference, difference - half, difference + half, interval.sd, interval.n, LEVEL / 100)


def ledger_table(comparison: Comparison, claims: Sequence[Claim]) -> Table:
    """Make a table with one row for each published value."""
    rows = []
    previous: tuple[ComparedPair, Row] | None = None
    for claim in claims:
        value, is_new = claim.value, (claim.pair, claim.row) != previous
        previous = claim.pair, claim.row
        published = f"{fixed(value.top1)}" + (f" ± {fixed(value.std)}" if value.std else "")
        numbers = {"top-1 %": fixed(value.top1)} | ({"sd": fixed(value.std)} if value.std else {})
        runs = Entry(str(value.n or "?"), {"n": str(value.n or "")})
        sources = ", ".join((value.source, *value.also_in[:1]))
        more = f" + {len(value.also_in) - 1}" if len(value.also_in) > 1 else ""
        rows.append(
            (
                *words(claim.pair.name if is_new else "", claim.row.label if is_new else ""),
                Entry(published, numbers),
                runs,
                *words(value.epoch, sources + more),
                accuracy(claim.ours, claim.reported),
                Entry(str(len(claim.ours))),
                _difference(claim),
                Entry(claim.verdict, notes=tuple(filter(None, (claim.why, *claim.remarks)))),
            )
        )
    counts = Counter(claim.verdict for claim in claims)
    summary = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("agrees", "below", "above", "not comparable"))
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
        f"{comparison.title}: published values and ours",
        (heads,),
        tuple(rows),
        (
            f"{counted(len(claims), 'published value')}: {summary}",
            f"difference: ours minus published in percentage points; agrees: its {LEVEL} % interval contains zero",
            "interval: Welch's if the source gives its standard deviation and number of runs; otherwise our standard "
            "deviation stands in for theirs, and one run for an unknown number of runs",
            "published values of best epochs are compared with our best epochs, all others with our last epochs",
            *([BEST_ON_TEST] if any(claim.reported == "best" for claim in claims) else []),
            NOT_OURS,
        ),
        num_labels=2,
    )


def _why_not(comparison: Comparison, row: Row, value: PublishedValue, n: int) -> str:
    if comparison.overrides:
        return f"our rules differ from the protocol: {settings_text(comparison.overrides)}"
    if row.changed:
        return f"our settings were changed: {settings_text(row.changed)}"
    if row.tuning:
        return f"a search chose our settings: {row.tuning}"
    if row.epochs:
        return f"our rules differ from the protocol: epochs={row.epochs}"
    if value.differs:
        return value.differs
    return "one seed gives no interval" if n < 2 else ""


def _remarks(comparison: Comparison, pair: ComparedPair, value: PublishedValue, *, comparable: bool) -> list[str]:
    remarks = [text for text in (value.contested, value.note) if text]
    if value.top5 is not None:
        remarks.append(f"published top-5: {fixed(value.top5)} %")
    if not comparable:
        return remarks
    theirs = load_protocol(comparison.rules["name"]).accuracy.get(pair.teacher)
    if theirs is not None and abs(pair.teacher_accuracy - theirs) > _TEACHER:
        remarks.append(
            f"our teacher {pair.teacher_label} has {fixed(pair.teacher_accuracy)} %, theirs {fixed(theirs)} %"
        )
    return remarks


def _verdict(difference: Interval | None) -> Verdict:
    if difference is None:
        return "not comparable"
    if difference.excludes_zero:
        return "above" if difference.mean > 0 else "below"
    return "agrees"


def _difference(claim: Claim) -> Entry:
    return interval_entry(claim.difference) if claim.difference else Entry(MISSING)
