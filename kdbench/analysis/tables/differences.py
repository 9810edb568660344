"""Paired differences of each method to a baseline: per pair, and pooled over pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kdbench.analysis.comparison import ComparedPair, Comparison, Epoch, Row
from kdbench.analysis.stats.paired import TOLERANCE, Interval, can_reach, holm, paired, sign_flip_p, smallest_p
from kdbench.analysis.stats.pooled import pooled_gain, probability_of_improvement, stratified_bootstrap, win_tie_loss
from kdbench.analysis.tables.entries import BEST_ON_TEST, LEVEL, difference, fixed, interval_entry
from kdbench.analysis.tables.table import MISSING, Entry, Table, words
from kdbench.errors import UserError

MARGIN = 0.2
"""Percentage points that count as a tie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """A method against the baseline."""

    row: Row
    pairs: Mapping[ComparedPair, tuple[Mapping[int, float], Mapping[int, float]]]
    """Its values and the baseline's, by seed, of the pairs in which both have a record of one seed at least."""
    means: Mapping[ComparedPair, float]
    """Their mean differences in percentage points."""
    pooled: Interval | None
    """Of the same; None where a pair has one seed only."""
    outcome: tuple[int, int, int]
    """Pairs won, tied within the margin, and lost."""
    p: float
    """Sign-flip test of the pooled differences, each pair with the same weight."""
    smallest_p: float
    """What ``p`` cannot fall below."""
    holm_p: float = math.nan
    """Corrected for the number of methods."""

    @property
    def mean(self) -> float:
        """The mean difference over pairs, which weigh the same."""
        return sum(self.means.values()) / len(self.means)


def against(
    comparison: Comparison, baseline: Row, epoch: Epoch = "last", margin: float = MARGIN, *, by_teacher: bool = False
) -> list[Versus]:
    """Compare every other method with a baseline, in the order of the rows.

    Parameters
    ----------
    margin
        Percentage points of the mean difference of a pair up to which it counts as a tie.
    by_teacher
        Intervals for other teachers: pairs of one teacher are not independent.

    Raises
    ------
    UserError
        By teacher with fewer than three of them.
    """
    others = [row for row in comparison.rows if row != baseline]
    tried = [_versus(comparison, row, baseline, epoch, margin, by_teacher=by_teacher) for row in others]
    found = [own for own in tried if own]
    corrected = holm([own.p for own in found])
    return [replace(own, holm_p=p) for own, p in zip(found, corrected, strict=True)]


def _versus(
    comparison: Comparison, row: Row, baseline: Row, epoch: Epoch, margin: float, *, by_teacher: bool
) -> Versus | None:
    values: dict[ComparedPair, tuple[Mapping[int, float], Mapping[int, float]]] = {}
    for pair in comparison.pairs:
        own, other = comparison.result(row, pair), comparison.result(baseline, pair)
        if own and other and not set(own.frame.index).isdisjoint(other.frame.index):
            values[pair] = own.values(epoch), other.values(epoch)
    if not values:
        return None
    differences = _differences(values.values())
    means = [sum(own) / len(own) for own in differences]
    pooled = None
    if by_teacher:
        try:
            pooled = pooled_gain(differences, LEVEL / 100, [f"{pair.teacher} {pair.short}" for pair in values])
        except ValueError as error:
            raise UserError(f"--by-teacher: {error}") from None
    elif min(map(len, differences)) > 1:
        pooled = pooled_gain(differences, LEVEL / 100)
    weighted = [value / len(own) for own in differences for value in own]
    return Versus(
        row=row,
        pairs=values,
        means=dict(zip(values, means, strict=True)),
        pooled=pooled,
        outcome=win_tie_loss(means, margin),
        p=sign_flip_p(weighted),
        smallest_p=smallest_p(sum(abs(value) > TOLERANCE for value in weighted)),
    )


def _differences(values: Iterable[tuple[Mapping[int, float], Mapping[int, float]]]) -> list[list[float]]:
    return [list(difference(own, other).values()) for own, other in values]


def by_pair(comparison: Comparison, baseline: Row, found: Sequence[Versus], epoch: Epoch = "last") -> Table:
    """One row for each pair and method."""
    rows = []
    for pair in comparison.pairs:
        own = [(one.row.label, paired(*one.pairs[pair], LEVEL / 100)) for one in found if pair in one.pairs]
        for number, (label, one) in enumerate(sorted(own, key=lambda item: -item[1].interval.mean)):
            p_values = (one.t_p, one.sign_flip_p, one.wilcoxon_p, one.smallest_p)
            labels = words(pair.name if number == 0 else "", label)
            rows.append((*labels, interval_entry(one.interval), *words(str(one.interval.n), *map(p_value, p_values))))
    least = min((len(own) for one in found for own in _differences(one.pairs.values())), default=0)
    return Table(
        f"{comparison.title}: differences to {baseline.label} by pair",
        (("pair", "method", f"difference [{LEVEL} %]", "n", "t p", "sign-flip p", "Wilcoxon p", "smallest p"),),
        tuple(rows),
        (
            f"difference of top-1 in percentage points, paired by seed, with its {LEVEL} % t interval over n seeds",
            "p: two-sided, not corrected; smallest p: what the two exact tests could reach with so few seeds",
            *([_FEW.format(least)] if not can_reach(least) else []),
            *([BEST_ON_TEST] if epoch == "best" else []),
        ),
        num_labels=2,
        grouped=True,
    )


_FEW = "n = {} at least: with fewer than 6 seeds an exact test cannot reach 5 %, whatever the differences"


def pooled_table(
    comparison: Comparison,
    baseline: Row,
    found: Sequence[Versus],
    epoch: Epoch = "last",
    margin: float = MARGIN,
    *,
    by_teacher: bool = False,
) -> Table:
    """One row for each method, over its pairs."""
    rows = []
    for own in sorted(found, key=lambda one: -one.mean):
        missing = len(comparison.pairs) - len(own.pairs)
        notes = (f"{missing} of {len(comparison.pairs)} pairs are missing",) if missing else ()
        rows.append(
            (
                Entry(own.row.label, notes=notes),
                Entry(str(len(own.pairs))),
                pooled_entry(own),
                _bootstrap(own),
                _improvement(own),
                Entry("/".join(map(str, own.outcome))),
                *words(*map(p_value, (own.p, own.holm_p, own.smallest_p))),
            )
        )
    difference_head, bootstrap_head = f"mean difference [{LEVEL} %]", f"bootstrap [{LEVEL} %]"
    heads = ("method", "pairs", difference_head, bootstrap_head, "P(better) %", "w/t/l", "p", "Holm p", "smallest p")
    meant = "other teachers" if by_teacher else "other seeds of these pairs"
    return Table(
        f"{comparison.title}: differences to {baseline.label}, pooled over pairs",
        (heads,),
        tuple(rows),
        (
            f"mean difference: of top-1 in percentage points, pairs weigh the same; its interval is for {meant}",
            "bootstrap: the same by resampling seeds within each pair, widened for their small number",
            "P(better): probability that a run of the method beats one of the baseline, by pair (Agarwal et al. 2021)",
            f"w/t/l: pairs won, tied and lost: mean difference above, within or below ± {margin:g} percentage points",
            "p: sign-flip test of all differences, two-sided; Holm p: corrected for the number of methods; smallest p: "
            "what it could reach with so few seeds",
            *dependent(comparison, by_teacher=by_teacher),
            *([BEST_ON_TEST] if epoch == "best" else []),
        ),
    )


def choose_baseline(comparison: Comparison, name: str | None) -> Row:
    """The named row, or the student alone.

    Raises
    ------
    UserError
        There is no such row, or no student alone.
    """
    if name:
        return comparison.find(name)
    if comparison.alone is None:
        labels = ", ".join(row.label for row in comparison.rows)
        raise UserError(f"{comparison.title}: no student without a teacher to compare with; --baseline takes {labels}")
    return comparison.alone


def dependent(comparison: Comparison, *, by_teacher: bool = False) -> list[str]:
    """A warning where pairs share networks."""
    networks = Counter(name for pair in comparison.pairs for name in {pair.student} | ({pair.teacher} - {""}))
    shared = sorted(name for name, number in networks.items() if number > 1)
    if by_teacher or not shared:
        return []
    return [
        f"pairs that share {', '.join(shared)} are not independent, so that the interval is rather too narrow for new "
        "networks: 'kdbench compare --by-teacher' gives one for other teachers"
    ]


def pooled_entry(own: Versus) -> Entry:
    """The pooled difference with its interval, or without one where seeds are missing."""
    if own.pooled:
        return interval_entry(own.pooled)
    mean = fixed(own.mean, sign=True)
    return Entry(mean, {"mean": mean}, notes=("no interval: a pair has one seed only",))


def _bootstrap(own: Versus) -> Entry:
    differences = _differences(own.pairs.values())
    if min(map(len, differences)) < 2:
        return Entry(MISSING)
    found = stratified_bootstrap(differences, LEVEL / 100)
    low, high = fixed(found.low, sign=True), fixed(found.high, sign=True)
    return Entry(f"[{low}, {high}]", {"low": low, "high": high})


def _improvement(own: Versus) -> Entry:
    """The probability of improvement in percent with its interval."""
    sides = [[list(side.values()) for side in both] for both in own.pairs.values()]
    found = probability_of_improvement([side[0] for side in sides], [side[1] for side in sides], LEVEL / 100)
    mean, low, high = (fixed(100 * value, 0) for value in (found.mean, found.low, found.high))
    return Entry(f"{mean} [{low}, {high}]", {"mean": mean, "low": low, "high": high})


def p_value(p: float) -> str:
    """A p as it is printed."""
    if math.isnan(p):
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"
