"""Score rows by their mean accuracies, and rank them over pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdbench.analysis.comparison import COLUMN, ComparedPair, Comparison, Reported, Row
from kdbench.analysis.stats.ranks import average_ranks


def ranked_scores(
    comparison: Comparison, means: Mapping[Row, Mapping[ComparedPair, float]]
) -> tuple[tuple[Row, ...], list[list[float]]]:
    """Return the methods that have a record in every pair, and their means."""
    ranked = tuple(row for row, by_pair in means.items() if len(by_pair) == len(comparison.pairs))
    return ranked, [list(means[row].values()) for row in ranked]


def rank_rows(ranked: Sequence[Row], scores: Sequence[Sequence[float]]) -> dict[Row, float]:
    """Return the average rank of each of these methods over pairs, 1 is best."""
    return dict(zip(ranked, average_ranks(scores).tolist(), strict=True)) if ranked else {}


def row_means(comparison: Comparison, row: Row, reported: Reported) -> dict[ComparedPair, float]:
    """Return the mean of what is reported in percent on each pair that has records."""
    means = {}
    for pair in comparison.pairs:
        result = comparison.result(row, pair)
        if result and len(result.frame):
            means[pair] = float(result.frame[COLUMN[reported]].mean())
    return means
