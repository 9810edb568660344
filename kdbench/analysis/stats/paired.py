"""Compare two methods on one pair of networks: paired differences, intervals and exact tests.

Seed k gives every method the same initialisation, data order and augmentation, so methods are compared by their
differences within seeds. The same input always gives the same result.

Results are in the unit of the input: percentage points for accuracies. Values that differ by ``TOLERANCE`` or less are
equal: 75.1 - 74.9 and 80.2 - 80.0 are a tie, although their floats differ.

Sources: Du 2025 (arXiv:2511.19794) for paired seeds with exact tests; Fisher 1935 (The Design of Experiments, section
21) for the sign-flip test; Wilcoxon 1945 (Biometrics Bulletin 1:80).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOLERANCE = 1e-9
"""Largest difference of two values that count as equal."""
NUM_ENUMERATED = 16
"""Largest number of differences for which the sign-flip test enumerates every pattern of signs."""
_NUM_DRAWN = 9_999
_DRAWN_AT_ONCE = 2**21
"""Number of signs that are held in memory."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean of ``n`` values with a confidence interval.

    Attributes
    ----------
    mean, sd, n
        Mean, standard deviation (ddof 1, nan for one value) and number of the values.
    low, high
        Ends of the interval; nan if there are too few values, or equal ones, whose spread nobody can estimate.
    level
        Probability with which such an interval contains the true mean, 0.95 for a 95 % interval.
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int
    level: float

    def excludes(self, value: float) -> bool:
        """Return whether ``value`` lies outside the interval; False without an interval."""
        return self.low > value + TOLERANCE or self.high < value - TOLERANCE

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval; False without an interval."""
        return self.excludes(0.0)


@dataclass(frozen=True, slots=True)
class Paired:
    """A comparison of two methods over their common seeds; every p is two-sided.

    Attributes
    ----------
    seeds, differences
        Common seeds in ascending order, and first minus second method for each.
    interval
        t interval of the mean difference.
    t_p
        Paired t test: nan for one seed, and for equal differences, whose spread is unknown.
    sign_flip_p
        Sign-flip (permutation) test on the mean: exact for up to ``NUM_ENUMERATED`` seeds.
    wilcoxon_p
        Wilcoxon's signed-rank test: exact, with ties and zeros.
    smallest_p
        The smallest p that the sign-flip and Wilcoxon tests can give for this number of nonzero differences.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    interval: Interval
    t_p: float
    sign_flip_p: float
    wilcoxon_p: float
    smallest_p: float


def t_interval(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Compute Student's t interval of a mean, which is exact for independent normal values.

    Parameters
    ----------
    values
        ``(n,)``, one per seed. For one value ``sd``, ``low`` and ``high`` are nan; for equal ones ``low`` and ``high``.
    level
        Confidence level, between 0 and 1.

    Raises
    ------
    ValueError
        Without values, for values that are not finite, for a level outside (0, 1).
    """
    values = as_values(values)
    mean, sd, n = float(values.mean()), standard_deviation(values), len(values)
    half = t_quantile(n - 1, level) * sd / math.sqrt(n) if sd > 0 else math.nan
    return Interval(mean, mean - half, mean + half, sd, n, level)


def paired(first: Mapping[int, float], second: Mapping[int, float], level: float = 0.95) -> Paired:
    """Compare two methods over their common seeds.

    With fewer than six seeds, no exact test can reach p = 0.05, however large the differences (see ``smallest_p``).
    The t test can, because it assumes normal differences.

    Parameters
    ----------
    first, second
        Value by seed, for example top-1 in percent. Seeds of only one method are ignored.
    level
        Confidence level of the t interval.

    Raises
    ------
    ValueError
        Without a common seed, for values that are not finite, for a level outside (0, 1).
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise ValueError(f"no common seed: {sorted(first)} and {sorted(second)}; run both methods with the same seeds")
    differences = as_values([first[seed] - second[seed] for seed in seeds])
    differences[abs(differences) <= TOLERANCE] = 0.0
    interval = t_interval(differences, level)
    return Paired(
        seeds=tuple(seeds),
        differences=tuple(differences.tolist()),
        interval=interval,
        t_p=_t_p(interval),
        sign_flip_p=sign_flip_p(differences),
        wilcoxon_p=wilcoxon_p(differences),
        smallest_p=smallest_p(int(np.count_nonzero(differences))),
    )


def sign_flip_p(differences: npt.ArrayLike) -> float:
    """Compute the two-sided p of the sign-flip test on the mean difference (Fisher 1935).

    If two methods are equal, a difference is as probable as its negative. Up to ``NUM_ENUMERATED`` nonzero differences
    give an exact p; for more, 9,999 patterns are drawn with a fixed seed, and p is at least 0.0001.

    Parameters
    ----------
    differences
        ``(n,)``, one per seed; ValueError for an empty array or non-finite values.
    """
    differences = as_values(differences)
    nonzero = differences[abs(differences) > TOLERANCE]
    sizes = np.sort(abs(nonzero))
    if len(sizes) <= NUM_ENUMERATED:
        sums = np.zeros(1)
        for size in sizes:
            sums = np.concatenate([sums + size, sums - size])
    else:
        # The observed pattern is one of them, so p is never zero.
        generator, rows = np.random.default_rng(0), max(1, _DRAWN_AT_ONCE // len(sizes))
        counts = [min(rows, _NUM_DRAWN - done) for done in range(0, _NUM_DRAWN, rows)]
        positive = [generator.integers(0, 2, (count, len(sizes)), dtype=np.int8) @ sizes for count in counts]
        sums = np.append(2 * np.concatenate(positive) - sizes.sum(), nonzero.sum())
    return float(np.mean(abs(sums) >= abs(nonzero.sum()) - TOLERANCE))


def wilcoxon_p(differences: npt.ArrayLike) -> float:
    """Compute the two-sided p of Wilcoxon's signed-rank test, exact for any number of differences.

    Zeros are dropped, as Wilcoxon did and as R and SciPy do by default. Equal sizes share their average rank. All
    patterns of signs of these ranks are counted, so p is exact with ties, too, unlike printed tables.

    Parameters
    ----------
    differences
        ``(n,)``, one per seed or pair of networks; ValueError for an empty array or non-finite values.
    """
    differences = as_values(differences)
    nonzero = differences[abs(differences) > TOLERANCE]
    # Twice the ranks are whole numbers: patterns are counted by the sum of the positive ones.
    doubled = (2 * midranks(abs(nonzero))).astype(int)
    total = int(doubled.sum())
    probability = np.zeros(total + 1)
    probability[0] = 1.0
    for rank in doubled:
        probability[rank:] = (probability[rank:] + probability[: total + 1 - rank]) / 2
        probability[:rank] /= 2
    distance = abs(2 * int(doubled[nonzero > 0].sum()) - total)
    return min(1.0, float(probability[abs(2 * np.arange(total + 1) - total) >= distance].sum()))


def smallest_p(n: int) -> float:
    """Compute the smallest two-sided p of an exact sign-based test over ``n`` nonzero differences: min(1, 2^(1-n)).

    It is 0.25 for 3 seeds, 0.0625 for 5 and 0.031 for 6: the share of the two patterns in which all differences have
    the same sign, in ``sign_flip_p`` and in ``wilcoxon_p``. ValueError for a negative ``n``.
    """
    if n < 0:
        raise ValueError(f"{n} differences: give the number of seeds, 0 or more")
    return min(1.0, 2.0 ** (1 - n))


def can_reach(n: int, alpha: float = 0.05) -> bool:
    """Return whether an exact two-sided test over ``n`` seeds can give p <= ``alpha``; 0.05 takes 6 seeds."""
    return smallest_p(n) <= alpha


def midranks(values: npt.ArrayLike) -> Floats:
    """Rank values from 1 for the smallest; values within ``TOLERANCE`` of a neighbour share their average rank.

    Parameters
    ----------
    values
        ``(n,)``, finite.
    """
    values = np.asarray(values, dtype=float)
    order = np.argsort(values, kind="stable")
    group = np.cumsum(np.diff(values[order], prepend=values[order][:1]) > TOLERANCE)
    counts = np.bincount(group) if len(group) else np.zeros(0, dtype=int)
    ranks = np.empty(len(values))
    ranks[order] = (np.cumsum(counts) - (counts - 1) / 2)[group]
    return ranks


def as_values(values: npt.ArrayLike) -> Floats:
    """Copy values to a ``(n,)`` float64 array; ValueError if it is empty or has non-finite values."""
    array = np.array(values, dtype=float)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"expected a one-dimensional array with at least one value, got the shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"values must be finite: {array.tolist()}; leave out the seeds that diverged, and report them")
    return array


def standard_deviation(values: Floats) -> float:
    """Compute the standard deviation with ddof 1: nan for one value, 0 for values that differ by rounding only."""
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1)) if np.ptp(values) > TOLERANCE else 0.0


def t_quantile(df: float, level: float) -> float:
    """Compute the half-width of a two-sided t interval in standard errors: 4.30 for 2 degrees of freedom at 0.95."""
    from scipy.special import stdtrit  # noqa: PLC0415

    return float(stdtrit(df, (1 + check_level(level)) / 2))


def check_level(level: float) -> float:
    """Return a confidence level unchanged; ValueError outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level {level}: must lie between 0 and 1, for example 0.95")
    return level


def _t_p(interval: Interval) -> float:
    from scipy.special import stdtr  # noqa: PLC0415

    if not interval.sd > 0:
        return math.nan
    return float(2 * stdtr(interval.n - 1, -abs(interval.mean) / (interval.sd / math.sqrt(interval.n))))
