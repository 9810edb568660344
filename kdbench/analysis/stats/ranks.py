"""Compare many methods over many pairs of networks by their ranks.

Sources: Demsar 2006 (JMLR 7:1) for the Friedman test, Nemenyi's critical difference and the diagram; Iman and Davenport
1980 (Communications in Statistics A9:571); Benavoli et al. 2016 (JMLR 17:5), who prefer pairwise Wilcoxon tests with
Holm's correction, because average ranks make the result for two methods depend on which others take part; Kendall 1945
(Biometrika 33:239) for tau-b.

Ranks do not show how large a difference is: show the gains beside them. For 10 methods over 13 pairs, the critical
difference is 3.8 ranks, so in most diagrams most methods do not differ significantly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from kdbench.analysis.stats.multiple import holm
from kdbench.analysis.stats.paired import TOLERANCE, Floats, check_level, midranks, wilcoxon_p
from kdbench.utils.text import counted


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The result of ``friedman`` for ``K`` methods and ``N`` blocks.

    Attributes
    ----------
    average_ranks
        ``(K,)``: 1 is best, ties share their average.
    statistic, p
        Friedman's chi-squared with K-1 degrees of freedom, corrected for ties (Demsar's formula is not).
    f_statistic, f_p
        Iman and Davenport's F statistic and its p, with K-1 and (K-1)(N-1) degrees of freedom: more accurate than
        chi-squared with few blocks.
    critical_difference
        Nemenyi: smallest difference of two average ranks that is significant.
    cliques
        Groups of methods that do not differ significantly, from ``cliques``.
    level
        Confidence level: 0.95 means tests at 5 %.
    """

    average_ranks: Floats
    statistic: float
    p: float
    f_statistic: float
    f_p: float
    critical_difference: float
    cliques: tuple[tuple[int, ...], ...]
    level: float


@dataclass(frozen=True, slots=True)
class Stability:
    """Kendall's tau-b of two rankings of ``n`` methods, from -1 (reversed) to 1 (the same), and its two-sided p."""

    tau: float
    p: float
    n: int


def friedman(scores: npt.ArrayLike, level: float = 0.95) -> Ranking:
    """Rank methods within blocks and test whether their average ranks differ (Demsar 2006, section 3.2.2).

    Parameters
    ----------
    scores
        ``(K, N)``: a row for each method, a column for each block (pair of networks, data set); higher is better.
    level
        Confidence level, between 0 and 1.

    Raises
    ------
    ValueError
        For fewer than three methods or two blocks, for missing scores.
    """
    from scipy.stats import f, friedmanchisquare, studentized_range  # noqa: PLC0415

    ranks = _ranks(scores, least=3)
    num_methods, num_blocks = ranks.shape
    average = ranks.mean(axis=1)
    # If all methods tie in every block, nothing can be tested, and SciPy would divide by zero.
    statistic, p = friedmanchisquare(*ranks) if np.ptp(ranks) else (0.0, 1.0)
    f_statistic = iman_davenport(float(statistic), num_methods, num_blocks)
    error = math.sqrt(num_methods * (num_methods + 1) / (6 * num_blocks))
    critical = float(studentized_range.ppf(check_level(level), num_methods, np.inf)) / math.sqrt(2) * error
    return Ranking(
        average_ranks=average,
        statistic=float(statistic),
        p=float(p),
        f_statistic=f_statistic,
        f_p=float(f.sf(f_statistic, num_methods - 1, (num_methods - 1) * (num_blocks - 1))),
        critical_difference=critical,
        cliques=cliques(average, abs(np.subtract.outer(average, average)) >= critical),
        level=level,
    )


def iman_davenport(statistic: float, num_methods: int, num_blocks: int) -> float:
    """Compute the F statistic of Friedman's chi-squared, an analysis of variance of ranks (Iman and Davenport 1980)."""
    rest = num_blocks * (num_methods - 1) - statistic
    return (num_blocks - 1) * statistic / rest if rest > TOLERANCE else math.inf


def nemenyi(scores: npt.ArrayLike) -> Floats:
    """Test each two methods by their average ranks (Nemenyi).

    Parameters
    ----------
    scores
        ``(K, N)`` as for ``friedman``, with the same errors.

    Returns
    -------
    numpy.ndarray
        ``(K, K)``: p, 1 on the diagonal.
    """
    from scikit_posthocs import posthoc_nemenyi_friedman  # noqa: PLC0415

    p_values: Floats = posthoc_nemenyi_friedman(_ranks(scores, least=3).T).to_numpy()
    return p_values


def wilcoxon_holm(scores: npt.ArrayLike) -> Floats:
    """Test each two methods by exact Wilcoxon signed-rank tests over blocks, with Holm's correction.

    The procedure is that of Benavoli et al. (2016). With fewer than six blocks, no p can be 0.05 or less, and Holm's
    factor requires more: the 15 comparisons of 6 methods need 10 blocks.

    Parameters
    ----------
    scores
        ``(K, N)`` as for ``friedman``; two methods suffice.

    Raises
    ------
    ValueError
        For fewer than two methods or two blocks, for missing scores.

    Returns
    -------
    numpy.ndarray
        ``(K, K)``: adjusted p, 1 on the diagonal. ``cliques(average_ranks, p <= 0.05)`` gives the bars of a diagram.
    """
    scores = _matrix(scores, least=2)
    p_values = np.eye(len(scores))
    both = list(combinations(range(len(scores)), 2))
    for (i, j), p in zip(both, holm([wilcoxon_p(scores[i] - scores[j]) for i, j in both]), strict=True):
        p_values[i, j] = p_values[j, i] = p
    return p_values


def average_ranks(scores: npt.ArrayLike) -> Floats:
    """Compute the ``(K,)`` average ranks of ``(K, N)`` scores, 1 for the highest; one method and one block suffice."""
    ranks: Floats = _ranks(scores, least=1, blocks=1).mean(axis=1)
    return ranks


def cliques(average_ranks: npt.ArrayLike, different: npt.ArrayLike) -> tuple[tuple[int, ...], ...]:
    """Find the largest groups of neighbours in rank in which no two differ: the bars of a diagram.

    Parameters
    ----------
    average_ranks
        ``(K,)``, 1 is best.
    different
        ``(K, K)``, symmetric: True for two methods that differ significantly.

    Returns
    -------
    tuple of tuples
        Indices of methods, best first. Groups may overlap; a method that differs from its neighbours is in no group.
    """
    order = np.argsort(average_ranks, kind="stable")
    different = np.asarray(different, dtype=bool)[np.ix_(order, order)]
    groups: list[tuple[int, ...]] = []
    last = 0
    for start in range(len(order)):
        end = start + 1
        while end < len(order) and not different[end, start:end].any():
            end += 1
        if end > max(last, start + 1):
            groups.append(tuple(order[start:end].tolist()))
            last = end
    return tuple(groups)


def rank_stability(first: Mapping[str, float], second: Mapping[str, float]) -> Stability:
    """Measure how similarly two recipes, data sets or protocols order methods: Kendall's tau-b (1945).

    Parameters
    ----------
    first, second
        Score by method, for example top-1 in percent. Methods in only one of them are ignored.

    Returns
    -------
    Stability
        tau and p are nan if all methods tie in one of them.

    Raises
    ------
    ValueError
        For fewer than two common methods, for non-finite scores.
    """
    from scipy.stats import kendalltau  # noqa: PLC0415

    names = sorted(first.keys() & second.keys())
    if len(names) < 2:
        raise ValueError(f"{counted(len(names), 'common method')}: an order needs at least two")
    scores = np.array([[first[name] for name in names], [second[name] for name in names]], dtype=float)
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite: leave out the methods without one")
    correlation = kendalltau(midranks(scores[0]), midranks(scores[1]), variant="b")
    return Stability(float(correlation.statistic), float(correlation.pvalue), len(names))


def _ranks(scores: npt.ArrayLike, least: int, blocks: int = 2) -> Floats:
    """Compute the ``(K, N)`` ranks within each block, 1 for the highest score."""
    return np.stack([midranks(-block) for block in _matrix(scores, least, blocks).T], axis=1)


def _matrix(scores: npt.ArrayLike, least: int, blocks: int = 2) -> Floats:
    array = np.asarray(scores, dtype=float)
    if array.ndim != 2:
        raise ValueError(f"scores must be methods x blocks, got the shape {array.shape}")
    if array.shape[0] < least:
        raise ValueError(f"{counted(array.shape[0], 'method')}: at least {least} are needed; use paired() for two")
    if array.shape[1] < blocks:
        raise ValueError(
            f"{counted(array.shape[1], 'block')}: at least {blocks} pairs of networks or data sets are needed"
        )
    if not np.isfinite(array).all():
        raise ValueError("every method needs a score in every block: run the missing cells, or leave the block out")
    return array
