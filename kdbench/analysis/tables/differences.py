"""Compare each method with a baseline by paired differences, per pair and pooled over pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kdbench.analysis.comparison import MEASURES, ComparedPair, Comparison, Reported, Row
from kdbench.analysis.stats.multiple import holm
from kdbench.analysis.stats.paired import TOLERANCE, Interval, can_reach, paired, sign_flip_p, smallest_p
from kdbench.analysis.stats.pooled import (
    MIN_CLUSTERS,
    pooled_gain,
    probability_of_improvement,
    stratified_bootstrap,
    win_tie_loss,
)
from kdbench.analysis.tables.entries import BEST_ON_TEST, LEVEL, difference, fixed, interval_entry
from kdbench.analysis.tables.notes import guessing_notes, label_entry
from kdbench.analysis.tables.searches import search_notes
from kdbench.analysis.tables.table import MISSING, Entry, Table, words
from kdbench.errors import UserError

MARGIN = 0.2
"""Largest mean difference that counts as a tie, in percentage points."""
_FEW = "smallest n = {}: with fewer than 6 seeds, no exact test can reach p = 0.05, however large the differences"
ValuesBySeed = Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """A method compared with the baseline."""

    row: Row
    pairs: Mapping[ComparedPair, tuple[ValuesBySeed, ValuesBySeed]]
    """Top-1 of the method and of the baseline by seed, for each pair with at least one common seed."""
    means: Mapping[ComparedPair, float]
    """Mean difference of each pair, in percentage points."""
    pooled: Interval | None
    """Pooled mean difference; None if a pair has one seed only."""
    outcome: tuple[int, int, int]
    """Number of pairs won, tied within the margin, and lost."""
    p: float
    """Sign-flip test of the pooled differences, with equal weights for pairs."""
    smallest_p: float
    """Smallest value that ``p`` can have with so few seeds."""
    holm_p: float = math.nan
    """``p`` corrected for the number of methods; rows of one method count as one method."""

    @property
    def num_seeds(self) -> int:
        """Number of paired differences of all pairs."""
        return sum(len(difference(*values)) for values in self.pairs.values())

    @property
    def mean(self) -> float:
        """Mean difference, averaged over pairs with equal weights."""
        return sum(self.means.values()) / len(self.means)


def against(
    comparison: Comparison,
    baseline: Row,
    reported: Reported = "last",
    margin: float = MARGIN,
    *,
    by_teacher: bool = False,
) -> list[Versus]:
    """Compare every other row with a baseline, in the order of the rows.

    Parameters
    ----------
    margin
        Largest mean difference of a pair that counts as a tie, in percentage points.
    by_teacher
        Whether intervals are for new teachers, so that pairs of one teacher are not taken as independent.

    Raises
    ------
    UserError
        ``by_teacher`` with fewer than three teachers.
    """
    others = [row for row in comparison.rows if row != baseline]
    candidates = [_versus(comparison, row, baseline, reported, margin, by_teacher=by_teacher) for row in others]
    results = [versus for versus in candidates if versus]
    # Rows of one method, such as a sweep of its settings, share the part of one: they must not cost other methods.
    sizes = Counter(versus.row.method for versus in results)
    corrected = holm([versus.p for versus in results], [1 / sizes[versus.row.method] for versus in results])
    return [replace(versus, holm_p=p) for versus, p in zip(results, corrected, strict=True)]


def _versus(
    comparison: Comparison, row: Row, baseline: Row, reported: Reported, margin: float, *, by_teacher: bool
) -> Versus | None:
    values: dict[ComparedPair, tuple[ValuesBySeed, ValuesBySeed]] = {}
    for pair in comparison.pairs:
        result, reference = comparison.result(row, pair), comparison.result(baseline, pair)
        if result and reference and not set(result.frame.index).isdisjoint(reference.frame.index):
            values[pair] = result.values(reported), reference.values(reported)
    if not values:
        return None
    differences = _differences(values.values())
    means = [sum(gaps) / len(gaps) for gaps in differences]
    pooled = None
    if by_teacher:
        pooled = pooled_gain(differences, LEVEL / 100, _teachers(row, list(values)))
    elif min(map(len, differences)) > 1:
        pooled = pooled_gain(differences, LEVEL / 100)
    weighted = [gap / len(gaps) for gaps in differences for gap in gaps]
    return Versus(
        row=row,
        pairs=values,
        means=dict(zip(values, means, strict=True)),
        pooled=pooled,
        outcome=win_tie_loss(means, margin),
        p=sign_flip_p(weighted),
        smallest_p=smallest_p(sum(abs(value) > TOLERANCE for value in weighted)),
    )


def _teachers(row: Row, pairs: Sequence[ComparedPair]) -> list[str]:
    """Return the teacher of each pair as a cluster."""
    teachers = [pair.teacher_label for pair in pairs]
    if len(set(teachers)) < MIN_CLUSTERS:
        raise UserError(
            f"--by-teacher needs pairs of {MIN_CLUSTERS} teachers or more, but {row.label} has pairs of "
            f"{len(set(teachers))}: {', '.join(dict.fromkeys(teachers))}"
        )
    return teachers


def _differences(values: Iterable[tuple[ValuesBySeed, ValuesBySeed]]) -> list[list[float]]:
    """Return the paired differences of each pair."""
    return [list(difference(first, second).values()) for first, second in values]


def by_pair(comparison: Comparison, baseline: Row, results: Sequence[Versus], reported: Reported = "last") -> Table:
    """Make a table with one row for each pair and method."""
    rows = []
    for pair in comparison.pairs:
        tests = [(versus.row, paired(*versus.pairs[pair], LEVEL / 100)) for versus in results if pair in versus.pairs]
        for number, (row, test) in enumerate(sorted(tests, key=lambda item: -item[1].interval.mean)):
            p_values = (test.t_p, test.sign_flip_p, test.wilcoxon_p, test.smallest_p)
            labels = Entry(pair.name if number == 0 else ""), label_entry(comparison, row)
            rows.append((*labels, interval_entry(test.interval), *words(str(test.interval.n), *map(p_text, p_values))))
    least = min((len(gaps) for versus in results for gaps in _differences(versus.pairs.values())), default=0)
    return Table(
        f"{comparison.title}: differences to {baseline.label} by pair",
        (("pair", "method", f"difference [{LEVEL} %]", "n", "t p", "sign-flip p", "Wilcoxon p", "smallest p"),),
        tuple(rows),
        (
            f"difference: of {MEASURES[reported]} in percentage points, paired by seed, with its {LEVEL} % t interval "
            "over n seeds",
            "p: two-sided, not corrected for multiple comparisons; t p and interval need differences that vary; "
            "smallest p: smallest value that the two exact tests can reach with n seeds",
            *([_FEW.format(least)] if not can_reach(least) else []),
            *([BEST_ON_TEST] if reported == "best" else []),
            *guessing_notes(comparison, comparison.pairs),
        ),
        num_labels=2,
        grouped=True,
    )


def pooled_table(
    comparison: Comparison,
    baseline: Row,
    results: Sequence[Versus],
    reported: Reported = "last",
    margin: float = MARGIN,
    *,
    by_teacher: bool = False,
) -> Table:
    """Make a table with one row for each method, pooled over its pairs."""
    rows = []
    for versus in sorted(results, key=lambda versus: -versus.mean):
        missing = len(comparison.pairs) - len(versus.pairs)
        notes = (f"{missing} of {len(comparison.pairs)} pairs are missing",) if missing else ()
        rows.append(
            (
                label_entry(comparison, versus.row, notes),
                Entry(str(len(versus.pairs))),
                Entry(str(versus.num_seeds)),
                pooled_entry(versus),
                _bootstrap(versus),
                _improvement(versus),
                Entry("/".join(map(str, versus.outcome))),
                *words(*map(p_text, (versus.p, versus.holm_p, versus.smallest_p))),
            )
        )
    heads = ("method", "pairs", "n", f"mean difference [{LEVEL} %]", f"bootstrap [{LEVEL} %]", "P(better) %", "w/t/l")
    population = "other teachers" if by_teacher else "other seeds of the same pairs"
    return Table(
        f"{comparison.title}: differences to {baseline.label}, pooled over pairs",
        ((*heads, "p", "Holm p", "smallest p"),),
        tuple(rows),
        (
            f"mean difference: of {MEASURES[reported]} in percentage points, all pairs weighted equally; its interval "
            f"is for {population}; n: differences of all pairs, each of one seed",
            "bootstrap: the same interval by resampling seeds within each pair, widened to correct for few seeds",
            "P(better): probability that a run of the method beats a run of the baseline, averaged over pairs "
            "(Agarwal et al. 2021)",
            f"w/t/l: pairs won, tied and lost: mean difference above, within or below ± {margin:g} percentage points",
            "p: two-sided sign-flip test of all differences; smallest p: smallest value that the test can reach with n",
            holm_note(results),
            *dependence_notes(comparison, by_teacher=by_teacher),
            *([BEST_ON_TEST] if reported == "best" else []),
            *search_notes(comparison, comparison.pairs),
        ),
    )


def choose_baseline(comparison: Comparison, name: str | None) -> Row:
    """Return the named row, or the student-only baseline without a name.

    Raises
    ------
    UserError
        The row or the student-only baseline does not exist.
    """
    if name:
        return comparison.find(name)
    if comparison.student_only is None:
        labels = ", ".join(row.label for row in comparison.rows)
        raise UserError(
            f"{comparison.title} has no student-only baseline: choose a row to compare with, --baseline takes "
            f"{labels}; or choose other records, --protocol and --rules select them"
        )
    return comparison.student_only


def holm_note(results: Sequence[Versus]) -> str:
    """Say which comparisons the p values were corrected for."""
    sizes = Counter(versus.row.name for versus in results)
    shared = ", ".join(f"{number} rows of {method}" for method, number in sizes.items() if number > 1)
    methods = f"the {len(sizes)} methods" if len(sizes) > 1 else "the one method"
    return f"Holm p: p corrected for {methods} that this table compares with the baseline" + (
        f"; rows of one method share its part and cost no other method ({shared})" if shared else ""
    )


def dependence_notes(comparison: Comparison, *, by_teacher: bool = False) -> list[str]:
    """Return a warning if pairs share networks."""
    teachers = Counter(pair.teacher_label for pair in comparison.pairs if pair.teacher)
    students = Counter(pair.student_label for pair in comparison.pairs)
    shared = sorted({name for counts in (teachers, students) for name, number in counts.items() if number > 1})
    if by_teacher or not shared:
        return []
    return [
        f"pairs that share {', '.join(shared)} are not independent: the intervals are too narrow for new networks; "
        "'kdbench compare --by-teacher' gives intervals for other teachers"
    ]


def pooled_entry(versus: Versus) -> Entry:
    """Make an entry of the pooled difference, with its interval if every pair has two seeds or more."""
    mean = fixed(versus.mean, sign=True)
    entry = (
        interval_entry(versus.pooled)
        if versus.pooled
        else Entry(mean, {"mean": mean}, notes=("no interval: at least one pair has a single seed",))
    )
    return replace(entry, numbers=dict(entry.numbers) | {"n": str(versus.num_seeds)})


def _bootstrap(versus: Versus) -> Entry:
    differences = _differences(versus.pairs.values())
    if min(map(len, differences)) < 2:
        return Entry(MISSING)
    interval = stratified_bootstrap(differences, LEVEL / 100)
    if not interval.high > interval.low:
        return Entry(MISSING)
    low, high = fixed(interval.low, sign=True), fixed(interval.high, sign=True)
    return Entry(f"[{low}, {high}]", {"low": low, "high": high})


def _improvement(versus: Versus) -> Entry:
    """Make an entry of the probability of improvement in percent, with its interval."""
    methods = [list(values.values()) for values, _ in versus.pairs.values()]
    baselines = [list(values.values()) for _, values in versus.pairs.values()]
    interval = probability_of_improvement(methods, baselines, LEVEL / 100)
    mean, low, high = (fixed(100 * value, 0) for value in (interval.mean, interval.low, interval.high))
    num_first, num_second = (sum(map(len, runs)) for runs in (methods, baselines))
    is_unpaired = any(first.keys() != second.keys() for first, second in versus.pairs.values())
    notes = (f"all runs, not only those of common seeds: {num_first} against {num_second}",) if is_unpaired else ()
    return Entry(f"{mean} [{low}, {high}]", {"mean": mean, "low": low, "high": high}, notes=notes)


def p_equals(p: float) -> str:
    """Write a p in a sentence: ``p = 0.012``, or ``p < 0.001``."""
    return f"p {'< 0.001' if p < 0.001 else f'= {p_text(p)}'}"


def p_text(p: float) -> str:
    """Format a p for a table."""
    if math.isnan(p):
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"
