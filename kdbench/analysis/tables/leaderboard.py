"""Leaderboards: methods by their average rank over pairs, with what each costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from kdbench.analysis.comparison import COLUMN, ComparedPair, Comparison, Epoch, Row
from kdbench.analysis.stats.ranks import Ranking, average_ranks, friedman, nemenyi, rank_stability, wilcoxon_holm
from kdbench.analysis.tables.differences import MARGIN, Versus, against, dependent, p_value, pooled_entry
from kdbench.analysis.tables.entries import LEVEL, fixed
from kdbench.analysis.tables.layouts import provenance, teachers, top1_words
from kdbench.analysis.tables.table import MISSING, Entry, Table, words
from kdbench.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a method stands."""

    row: Row
    rank: float
    """Average over pairs, 1 is best; nan for a method that is not ranked."""
    mean: float
    """Of the mean top-1 of its pairs, in percent."""
    num_pairs: int
    num_records: int
    versus: Versus | None
    """Against the student alone."""
    relative_time: float
    """Training time over that of the student alone, the mean over pairs; nan where devices differ."""
    teacher_forwards: float
    """For each image, view and epoch; nan without a teacher."""
    extra_parameters: float
    """The mean over pairs of the trainable parameters that the method adds."""


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Methods from best to worst, and what the ranks are worth."""

    comparison: Comparison
    epoch: Epoch
    standings: tuple[Standing, ...]
    ranking: Ranking | None
    """Friedman's test; None with fewer than three methods or two pairs."""
    ranked: tuple[Row, ...]
    """The methods of the ranking, in its order."""


def leaderboard(comparison: Comparison, epoch: Epoch = "last") -> Leaderboard:
    """Rank the methods that have a record in every pair; the others follow without a rank."""
    means = {row: _means(comparison, row, epoch) for row in comparison.rows}
    ranked, scores = _scores(comparison, means)
    ranking = friedman(scores) if len(ranked) > 2 and len(comparison.pairs) > 1 else None
    ranks = _ranks(ranked, scores)
    versus = {own.row: own for own in against(comparison, comparison.alone, epoch)} if comparison.alone else {}
    standings = [
        _standing(comparison, row, means[row], ranks.get(row, math.nan), versus.get(row)) for row in comparison.rows
    ]
    standings.sort(key=lambda own: (math.isnan(own.rank), own.rank, -own.mean if own.num_pairs else 0.0))
    return Leaderboard(comparison, epoch, tuple(standings), ranking, ranked)


def pairwise_table(comparison: Comparison, epoch: Epoch = "last") -> Table:
    """Every two methods by their ranks over pairs.

    Raises
    ------
    UserError
        There are fewer than three methods with records in all pairs, or fewer than two pairs.
    """
    means = {row: _means(comparison, row, epoch) for row in comparison.rows}
    ranked, scores = _scores(comparison, means)
    if len(ranked) < 3 or len(comparison.pairs) < 2:
        raise UserError(f"{comparison.title}: --pairwise takes three methods and two pairs with all records")
    ranks = _ranks(ranked, scores)
    by_rank, by_sign = nemenyi(scores), wilcoxon_holm(scores)
    order = sorted(range(len(ranked)), key=lambda index: ranks[ranked[index]])
    rows = [
        words(
            ranked[first].label,
            ranked[second].label,
            fixed(ranks[ranked[second]] - ranks[ranked[first]]),
            p_value(by_rank[first, second]),
            p_value(by_sign[first, second]),
        )
        for first, second in itertools.combinations(order, 2)
    ]
    return Table(
        f"{comparison.title}: every two methods over {len(comparison.pairs)} pairs",
        (("method", "above", "ranks", "Nemenyi p", "Wilcoxon-Holm p"),),
        tuple(rows),
        (
            f"ranks: between the average ranks by mean top-1; {top1_words(comparison, epoch)}",
            "Nemenyi p depends on which others take part, Wilcoxon-Holm p (Benavoli et al. 2016) on their number only",
        ),
        num_labels=2,
    )


def leaderboard_table(board: Leaderboard, stability: Sequence[str] = ()) -> Table:
    """The leaderboard as a table, with the notes of :func:`stability_notes`."""
    comparison = board.comparison
    rows = []
    for place, own in enumerate(board.standings, 1):
        missing = len(comparison.pairs) - own.num_pairs
        notes = [f"not ranked: {missing} of {len(comparison.pairs)} pairs have no record"] if missing else []
        waiting = any(result.begun for result in comparison.results_of(own.row))
        notes += ["not all of its cells are finished"] if waiting else []
        versus = own.versus
        rows.append(
            (
                Entry(MISSING if missing else str(place)),
                Entry(own.row.label, notes=tuple(notes)),
                Entry(fixed(own.rank) or MISSING),
                Entry((fixed(own.mean) or MISSING) + ("†" if board.epoch == "best" else "")),
                pooled_entry(versus) if versus else Entry(MISSING),
                Entry(p_value(versus.holm_p) if versus else MISSING),
                Entry("/".join(map(str, versus.outcome)) if versus else MISSING),
                Entry(str(own.num_pairs)),
                Entry(str(own.num_records)),
                Entry(str(own.row.views)),
                Entry(fixed(own.teacher_forwards, 1) or MISSING),
                Entry(fixed(own.relative_time) or MISSING),
                Entry(_count(own.extra_parameters)),
            )
        )
    alone = comparison.alone.label if comparison.alone else "the student alone"
    heads = ("#", "method", "rank", "top-1 %", f"gain [{LEVEL} %]", "Holm p", "w/t/l", "pairs", "records", "views")
    cost = "trained in lockstep or beside other work, times are rough"
    return Table(
        f"{comparison.title}: {len(comparison.pairs)} {'pair' if len(comparison.pairs) == 1 else 'pairs'}",
        ((*heads, "teacher", "time x", "parameters"),),
        tuple(rows),
        (
            f"rank: average over pairs of the rank by mean top-1, 1 is best; {top1_words(comparison, board.epoch)}",
            f"gain: over {alone} in percentage points, paired by seed, the mean over pairs; "
            "Holm p: its sign-flip test, corrected for the number of methods",
            f"w/t/l: pairs won, tied within {MARGIN:g} percentage points, and lost against {alone}",
            f"views: of each image in a step; teacher: its forward passes for each of them, 0 with a cache; time x: "
            f"training time over that of {alone} on the same device ({cost}); parameters: trainable ones of its own",
            *_rank_notes(board),
            *stability,
            *dependent(comparison),
            *teachers(comparison),
            *provenance(comparison),
        ),
        num_labels=2,
    )


def stability_notes(comparisons: Sequence[Comparison], epoch: Epoch = "last") -> list[list[str]]:
    """For each comparison, how much the order of methods depends on the epoch that is reported, and on the rules."""
    other: Epoch = "best" if epoch == "last" else "last"
    orders = [_order(comparison, epoch) for comparison in comparisons]
    notes = []
    for number, (comparison, own) in enumerate(zip(comparisons, orders, strict=True)):
        lines = _tau("the last and by the best-on-test epoch", own, _order(comparison, other))
        for earlier, order in zip(comparisons[:number], orders, strict=False):
            lines += _tau(f"these rules and by those of {earlier.title}", own, order)
        notes.append(lines)
    return notes


def _tau(what: str, first: Mapping[str, float], second: Mapping[str, float]) -> list[str]:
    if len(first.keys() & second.keys()) < 3:
        return []
    found = rank_stability(first, second)
    tau = fixed(found.tau, sign=True) or MISSING
    return [f"order of methods by {what}: Kendall's tau {tau} over {found.n} methods (p {p_value(found.p)})"]


def _order(comparison: Comparison, epoch: Epoch) -> dict[str, float]:
    means = {row: _means(comparison, row, epoch) for row in comparison.rows}
    return {row.label: -rank for row, rank in _ranks(*_scores(comparison, means)).items()}


def _scores(
    comparison: Comparison, means: Mapping[Row, Mapping[ComparedPair, float]]
) -> tuple[tuple[Row, ...], list[list[float]]]:
    """The methods that have a record in every pair, and their means."""
    ranked = tuple(row for row, own in means.items() if len(own) == len(comparison.pairs))
    return ranked, [list(means[row].values()) for row in ranked]


def _ranks(ranked: Sequence[Row], scores: Sequence[Sequence[float]]) -> dict[Row, float]:
    """The average rank over pairs of each of these methods, 1 is best."""
    return dict(zip(ranked, average_ranks(scores).tolist(), strict=True)) if ranked else {}


def _means(comparison: Comparison, row: Row, epoch: Epoch) -> dict[ComparedPair, float]:
    found = {}
    for pair in comparison.pairs:
        result = comparison.result(row, pair)
        if result and len(result.frame):
            found[pair] = float(result.frame[COLUMN[epoch]].mean())
    return found


def _standing(
    comparison: Comparison, row: Row, means: Mapping[ComparedPair, float], rank: float, versus: Versus | None
) -> Standing:
    frames = {pair: comparison.results[row, pair].frame for pair in means}
    records = {folder for frame in frames.values() for folder in frame["cell"]}
    forwards = [
        float((own["teacher_forwards"] / own["student_views"]).mean())
        for own in frames.values()
        if own["teacher"].iloc[0]
    ]
    return Standing(
        row=row,
        rank=rank,
        mean=_average(list(means.values())),
        num_pairs=len(means),
        num_records=len(records),
        versus=versus,
        relative_time=_average([_times(comparison, pair, frame) for pair, frame in frames.items()]),
        teacher_forwards=_average(forwards),
        extra_parameters=_average([float(frame["extra_parameters"].mean()) for frame in frames.values()]),
    )


def _times(comparison: Comparison, pair: ComparedPair, own: pd.DataFrame) -> float:
    """Training time over that of the student alone; nan where they ran on different devices."""
    alone = comparison.alone and comparison.result(comparison.alone, pair)
    if not alone or alone.frame.empty or len({*own["device"], *alone.frame["device"]}) > 1:
        return math.nan
    return float(own["train_seconds"].mean() / alone.frame["train_seconds"].mean())


def _average(values: Sequence[float]) -> float:
    """The mean; nan without values, or where one is nan."""
    return sum(values) / len(values) if values else math.nan


def _count(number: float) -> str:
    """A large number in short."""
    if math.isnan(number):
        return MISSING
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def _rank_notes(board: Leaderboard) -> list[str]:
    ranking = board.ranking
    if ranking is None:
        return ["ranks are not tested: that takes three methods and two pairs with all records"]
    groups = "; ".join(", ".join(board.ranked[index].label for index in group) for group in ranking.cliques)
    return [
        f"Friedman test of the ranks: chi2 {fixed(ranking.statistic)}, p {p_value(ranking.p)}; critical difference "
        f"(Nemenyi, {100 * (1 - ranking.level):.0f} %): {fixed(ranking.critical_difference)} ranks",
        f"not told apart by it: {groups}" if groups else "all methods are told apart by it",
    ]
