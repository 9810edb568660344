"""Rank methods over pairs of networks, with the cost of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from kdbench.analysis.comparison import MEASURES, ComparedPair, Comparison, Reported, Row
from kdbench.analysis.stats.paired import TOLERANCE
from kdbench.analysis.stats.ranks import Ranking, friedman, nemenyi, rank_stability, wilcoxon_holm
from kdbench.analysis.tables.differences import (
    MARGIN,
    Versus,
    against,
    dependence_notes,
    holm_note,
    p_equals,
    p_text,
    pooled_entry,
)
from kdbench.analysis.tables.entries import LEVEL, fixed
from kdbench.analysis.tables.layouts import views_entry
from kdbench.analysis.tables.notes import label_entry, measure_note, provenance, teacher_notes
from kdbench.analysis.tables.scores import rank_rows, ranked_scores, row_means
from kdbench.analysis.tables.searches import search_notes
from kdbench.analysis.tables.table import MISSING, Entry, Table, words
from kdbench.errors import UserError
from kdbench.utils.text import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The result of one method over all pairs."""

    row: Row
    rank: float
    """Average rank over pairs, 1 is best; nan for a method that is not ranked."""
    mean: float
    """Mean of what is reported in percent, averaged over its pairs."""
    num_pairs: int
    num_runs: int
    """Number of runs on all pairs; a run without a teacher counts on each of its pairs."""
    num_records: int
    versus: Versus | None
    """Comparison with the student-only baseline."""
    relative_time: float
    """Training time relative to the student-only baseline, mean over pairs; nan if devices differ."""
    teacher_forwards: float
    """Teacher forward passes per view of an image; nan without a teacher."""
    extra_parameters: float
    """Trainable parameters that the method adds, mean over pairs."""


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Methods from best to worst, each with its tuned rows, and a test of their ranks."""

    comparison: Comparison
    reported: Reported
    standings: tuple[Standing, ...]
    ranking: Ranking | None
    """Friedman's test; None with fewer than three ranked methods or two pairs."""
    ranked: tuple[Row, ...]
    """Methods of ``ranking``, in its order."""


def leaderboard(comparison: Comparison, reported: Reported = "last") -> Leaderboard:
    """Rank the methods that have a record in every pair; other methods follow without a rank.

    Rows of a method that differ only in where its settings were chosen follow the order of the comparison.
    """
    means = {row: row_means(comparison, row, reported) for row in comparison.rows}
    ranked, scores = ranked_scores(comparison, means)
    ranking = friedman(scores) if len(ranked) > 2 and len(comparison.pairs) > 1 else None
    ranks = rank_rows(ranked, scores)
    baseline = comparison.student_only
    versus = {result.row: result for result in against(comparison, baseline, reported)} if baseline else {}
    standings = [
        _standing(comparison, row, means[row], ranks.get(row, math.nan), versus.get(row)) for row in comparison.rows
    ]
    standings.sort(
        key=lambda standing: (math.isnan(standing.rank), standing.rank, -standing.mean if standing.num_pairs else 0.0)
    )
    # The default and the tuned rows of a method stand together, where the best of them is.
    places: dict[Row, int] = {}
    for place, standing in enumerate(standings):
        places.setdefault(replace(standing.row, tuning=""), place)
    standings.sort(key=lambda each: (places[replace(each.row, tuning="")], comparison.rows.index(each.row)))
    return Leaderboard(comparison, reported, tuple(standings), ranking, ranked)


def pairwise_table(comparison: Comparison, reported: Reported = "last") -> Table:
    """Make a table that compares every two methods by their ranks over pairs.

    Raises
    ------
    UserError
        Fewer than three methods have records in all pairs, or the comparison has fewer than two pairs.
    """
    means = {row: row_means(comparison, row, reported) for row in comparison.rows}
    ranked, scores = ranked_scores(comparison, means)
    if len(ranked) < 3 or len(comparison.pairs) < 2:
        raise UserError(
            f"{comparison.title}: --pairwise needs at least three methods with records in all pairs, and two pairs"
        )
    ranks = rank_rows(ranked, scores)
    by_rank, by_sign = nemenyi(scores), wilcoxon_holm(scores)
    order = sorted(range(len(ranked)), key=lambda index: ranks[ranked[index]])
    rows = [
        (
            label_entry(comparison, ranked[first]),
            label_entry(comparison, ranked[second]),
            Entry(fixed(ranks[ranked[second]] - ranks[ranked[first]])),
            *words(p_text(by_rank[first, second]), p_text(by_sign[first, second])),
        )
        for first, second in itertools.combinations(order, 2)
    ]
    return Table(
        f"{comparison.title}: pairwise comparison of methods over {counted(len(comparison.pairs), 'pair')}",
        (("method", "above", "ranks", "Nemenyi p", "Wilcoxon-Holm p"),),
        tuple(rows),
        (
            f"method, above: the first has the better average rank by mean {MEASURES[reported]}, or an equal one; "
            "ranks: difference of their average ranks",
            measure_note(comparison, reported),
            "Nemenyi p depends on which other methods take part, Wilcoxon-Holm p (Benavoli et al. 2016) only on their "
            f"number: it is corrected for all {len(rows)} comparisons of this table",
        ),
        num_labels=2,
    )


def leaderboard_table(board: Leaderboard, stability: Sequence[str] = ()) -> Table:
    """Make a table of a leaderboard, with the notes of :func:`stability_notes`."""
    comparison, dagger = board.comparison, "†" if board.reported == "best" else ""
    measure = MEASURES[board.reported]
    rows = []
    for standing in board.standings:
        place = 1 + sum(other.rank < standing.rank - TOLERANCE for other in board.standings)
        missing = len(comparison.pairs) - standing.num_pairs
        notes = [f"not ranked: {missing} of {counted(len(comparison.pairs), 'pair')} have no record"] if missing else []
        has_unfinished = any(result.unfinished for result in comparison.results_of(standing.row))
        notes += ["some of its cells are not finished"] if has_unfinished else []
        versus = standing.versus
        rows.append(
            (
                Entry(MISSING if missing else str(place)),
                label_entry(comparison, standing.row, tuple(notes)),
                Entry(fixed(standing.rank) or MISSING),
                Entry(f"{fixed(standing.mean) or MISSING}{dagger}", {f"{measure} %": fixed(standing.mean)}),
                _gain_entry(standing),
                Entry(p_text(versus.holm_p) if versus else MISSING),
                Entry("/".join(map(str, versus.outcome)) if versus else MISSING),
                Entry(str(standing.num_pairs)),
                Entry(str(standing.num_records)),
                views_entry(standing.row),
                Entry(fixed(standing.teacher_forwards, 1) or MISSING),
                Entry(fixed(standing.relative_time) or MISSING),
                Entry(_count(standing.extra_parameters)),
            )
        )
    compared = [standing.versus for standing in board.standings if standing.versus]
    baseline = comparison.student_only.label if comparison.student_only else "the student-only baseline"
    heads = "place", "method", "rank", f"{measure} %", f"gain [{LEVEL} %]", "Holm p", "w/t/l"
    return Table(
        f"{comparison.title}: {counted(len(comparison.pairs), 'pair')}",
        ((*heads, "pairs", "records", "views", "teacher", "time x", "parameters"),),
        tuple(rows),
        (
            f"rank: rank by mean {measure}, averaged over pairs, 1 is best; {measure_note(comparison, board.reported)}",
            f"gain: over {baseline} in percentage points, paired by seed, averaged over pairs; p: its sign-flip test",
            *([holm_note(compared)] if compared else []),
            f"w/t/l: pairs won, tied within {MARGIN:g} percentage points, and lost against {baseline}",
            "views: views per image and step; teacher: teacher forward passes per view, 0 with a cache; "
            "parameters: trainable parameters that the method adds",
            f"time x: training time relative to {baseline} on the same device; approximate for cells that trained in "
            "lockstep or beside other jobs",
            *_rank_notes(board),
            *stability,
            *dependence_notes(comparison),
            *teacher_notes(comparison),
            *search_notes(comparison, comparison.pairs),
            *provenance(comparison),
        ),
        num_labels=2,
    )


def _gain_entry(standing: Standing) -> Entry:
    """Make an entry of the gain, with a note if it is over fewer runs than the accuracy beside it."""
    versus = standing.versus
    if versus is None:
        return Entry(MISSING)
    entry = pooled_entry(versus)
    if versus.num_seeds == standing.num_runs:
        return entry
    return replace(entry, notes=(*entry.notes, f"gain: n = {versus.num_seeds} of {counted(standing.num_runs, 'run')}"))


def stability_notes(comparisons: Sequence[Comparison], reported: Reported = "last") -> list[list[str]]:
    """Return notes for each comparison on how much the order of methods depends on what is reported and the rules."""
    other: Reported = "best" if reported == "last" else "last"
    both = (
        f"by {MEASURES[reported]} and by top-1"
        if MEASURES[reported] != "top-1"
        else "by the last and by the best-on-test epoch"
    )
    orders = [_order(comparison, reported) for comparison in comparisons]
    notes = []
    for number, (comparison, order) in enumerate(zip(comparisons, orders, strict=True)):
        lines = _tau(both, order, _order(comparison, other))
        for earlier, earlier_order in zip(comparisons[:number], orders, strict=False):
            lines += _tau(f"under these rules and under {earlier.title}", order, earlier_order)
        notes.append(lines)
    return notes


def _tau(what: str, first: Mapping[str, float], second: Mapping[str, float]) -> list[str]:
    """Return a note on two orders, given as scores by method; none for fewer than three common methods."""
    if len(first.keys() & second.keys()) < 3:
        return []
    stability = rank_stability(first, second)
    tau = fixed(stability.tau, sign=True) or MISSING
    return [f"order of methods {what}: Kendall's tau {tau} over {stability.n} methods ({p_equals(stability.p)})"]


def _order(comparison: Comparison, reported: Reported) -> dict[str, float]:
    """Return the negative average rank of each ranked method, by its label."""
    means = {row: row_means(comparison, row, reported) for row in comparison.rows}
    return {row.label: -rank for row, rank in rank_rows(*ranked_scores(comparison, means)).items()}


def _standing(
    comparison: Comparison, row: Row, means: Mapping[ComparedPair, float], rank: float, versus: Versus | None
) -> Standing:
    frames = {pair: comparison.results[row, pair].frame for pair in means}
    cells = {cell for frame in frames.values() for cell in frame["cell"]}
    forwards = [
        float((frame["teacher_forwards"] / frame["student_views"]).mean())
        for frame in frames.values()
        if frame["teacher"].iloc[0]
    ]
    return Standing(
        row=row,
        rank=rank,
        mean=_average(list(means.values())),
        num_pairs=len(means),
        num_runs=sum(map(len, frames.values())),
        num_records=len(cells),
        versus=versus,
        relative_time=_average([_relative_time(comparison, pair, frame) for pair, frame in frames.items()]),
        teacher_forwards=_average(forwards),
        extra_parameters=_average([float(frame["extra_parameters"].mean()) for frame in frames.values()]),
    )


def _relative_time(comparison: Comparison, pair: ComparedPair, frame: pd.DataFrame) -> float:
    """Return the training time relative to the student-only baseline; nan if devices differ."""
    baseline = comparison.student_only and comparison.result(comparison.student_only, pair)
    if not baseline or baseline.frame.empty or len({*frame["device"], *baseline.frame["device"]}) > 1:
        return math.nan
    return float(frame["train_seconds"].mean() / baseline.frame["train_seconds"].mean())


def _average(values: Sequence[float]) -> float:
    """Return the mean; nan without values, or if a value is nan."""
    return sum(values) / len(values) if values else math.nan


def _count(number: float) -> str:
    """Abbreviate a large number."""
    if math.isnan(number):
        return MISSING
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def _rank_notes(board: Leaderboard) -> list[str]:
    ranking = board.ranking
    if ranking is None:
        return ["ranks are not tested: a test needs at least three methods with records in all pairs, and two pairs"]
    groups = "; ".join(", ".join(board.ranked[index].label for index in group) for group in ranking.cliques)
    variants = "" if len({row.method for row in board.ranked}) == len(board.ranked) else ", each variant a method"
    return [
        f"Friedman test of the ranks: chi2 = {fixed(ranking.statistic)}, {p_equals(ranking.p)}; critical difference "
        f"(Nemenyi, {100 * (1 - ranking.level):.0f} %): {fixed(ranking.critical_difference)} ranks, for "
        f"{len(board.ranked)} methods{variants}",
        f"not significantly different (Nemenyi): {groups}" if groups else "all methods differ significantly (Nemenyi)",
    ]
