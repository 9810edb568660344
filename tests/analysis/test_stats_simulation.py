"""What the intervals and tests promise, counted over simulated experiments with a fixed seed.

Limits come from the number of experiments: three standard deviations of a binomial share, with no other allowance.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdbench.analysis.stats.multiple import holm
from kdbench.analysis.stats.paired import Interval, paired, t_interval
from kdbench.analysis.stats.pooled import pooled_gain, probability_of_improvement, stratified_bootstrap

pytestmark = pytest.mark.once

NUM = 2500


def deviation(p: float, num: int = NUM) -> float:
    """Three standard deviations of a share: 0.013 for 0.95 of 2,500."""
    return 3 * math.sqrt(p * (1 - p) / num)


def coverage(intervals: list[Interval], truth: float) -> float:
    return 1 - float(np.mean([interval.excludes(truth) for interval in intervals]))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_t_interval_covers_95_percent(n: int) -> None:
    values = np.random.default_rng(n).normal(1.0, 0.2, (NUM, n))
    assert coverage([t_interval(row) for row in values], 1.0) == pytest.approx(0.95, abs=deviation(0.95))


@pytest.mark.parametrize(("num_pairs", "widest"), [(1, 1), (7, 1), (13, 1), (7, 16), (13, 16)])
@pytest.mark.parametrize("n", [3, 5])
def test_pooled_gain_covers_95_percent(n: int, num_pairs: int, widest: int) -> None:
    """Pairs' standard deviations go from 1 to ``widest``.

    It may cover more, up to the 0.965 it documents: with few seeds, Satterthwaite's degrees of freedom are too few.
    """
    rng = np.random.default_rng([n, num_pairs])
    gains, sds = np.linspace(-1, 2, num_pairs), np.geomspace(1, widest, num_pairs)
    pairs = gains[:, None] + sds[:, None] * rng.normal(size=(NUM, num_pairs, n))
    found = coverage([pooled_gain(list(experiment)) for experiment in pairs], gains.mean())
    assert found >= 0.95 - deviation(0.95)
    assert found <= (0.95 if num_pairs == 1 else 0.965) + deviation(0.95)


@pytest.mark.parametrize(("n", "num_pairs"), [(3, 1), (3, 7), (3, 13), (5, 7)])
def test_the_bootstrap_covers_95_percent(n: int, num_pairs: int) -> None:
    """1,000 experiments; as much as the interval whose degrees of freedom it takes, up to 0.965."""
    pairs = np.random.default_rng([n, num_pairs]).normal(size=(1000, num_pairs, n))
    found = [stratified_bootstrap(list(own), resamples=1000, seed=number) for number, own in enumerate(pairs)]
    assert 0.95 - deviation(0.95, 1000) <= coverage(found, 0.0) <= 0.965 + deviation(0.965, 1000)


def test_pooled_gain_where_one_pair_decides() -> None:
    """The documented exception: ten times the spread of twelve others, three seeds, 0.93 instead of 0.95."""
    sds = np.array([10.0, *[1.0] * 12])
    pairs = sds[:, None] * np.random.default_rng(0).normal(size=(NUM, 13, 3))
    found = coverage([pooled_gain(list(experiment)) for experiment in pairs], 0.0)
    assert found == pytest.approx(0.93, abs=deviation(0.93))


@pytest.mark.parametrize("effect", [0.0, 1.0])
@pytest.mark.parametrize("sizes", [(4, 4, 5), (3, 1, 2, 3, 2, 2), (1, 1, 1, 1, 1, 8)])
def test_pooled_gain_covers_95_percent_of_new_clusters(sizes: tuple[int, ...], effect: float) -> None:
    """The middle one is the pairs with a teacher of the usual CIFAR-100 tables. Without clusters, 0.3 is covered."""
    rng = np.random.default_rng([*sizes, int(effect)])
    which = np.repeat(np.arange(len(sizes)), sizes)
    of_cluster = effect * rng.normal(size=(NUM, len(sizes), 1))[:, which]
    pairs = of_cluster + 0.2 * rng.normal(size=(NUM, 13, 1)) + 0.3 * rng.normal(size=(NUM, 13, 3))
    names = [f"teacher {number}" for number in which]
    found = coverage([pooled_gain(list(experiment), clusters=names) for experiment in pairs], 0.0)
    assert found >= 0.95 - deviation(0.95)
    assert found <= (0.97 if max(sizes) < 8 else 1.0) + deviation(0.97)
    if effect:
        assert coverage([pooled_gain(list(experiment)) for experiment in pairs[:500]], 0.0) < 0.5


@pytest.mark.parametrize("gap", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("num_pairs", [1, 7, 13])
@pytest.mark.parametrize("n", [3, 5])
def test_probability_of_improvement_covers_95_percent_or_more(n: int, num_pairs: int, gap: float) -> None:
    """P(X > Y) of normals that are ``gap`` apart is the normal distribution at gap / sqrt 2."""
    first, second = np.random.default_rng([n, num_pairs]).normal(size=(2, NUM // 2, num_pairs, n))
    truth = (1 + math.erf(gap / 2)) / 2
    found = coverage([probability_of_improvement(x + gap, y) for x, y in zip(first, second, strict=True)], truth)
    assert found >= 0.95 - deviation(0.95, NUM // 2)


@pytest.mark.parametrize("n", [5, 6, 8])
def test_false_positives_at_5_percent(n: int) -> None:
    """The t test has 5 %. Exact tests have at most 5 %: 0 of fewer than six seeds, 2 of 64 patterns of six."""
    values = np.random.default_rng(n).normal(75, 0.2, (NUM, 2, n))
    found = [paired(dict(enumerate(a)), dict(enumerate(b))) for a, b in values]
    assert np.mean([x.t_p <= 0.05 for x in found]) == pytest.approx(0.05, abs=deviation(0.05))
    for name, largest in (
        ("sign_flip_p", {5: 0, 6: 2 / 64, 8: 12 / 256}),
        ("wilcoxon_p", {5: 0, 6: 2 / 64, 8: 10 / 256}),
    ):
        share = np.mean([getattr(x, name) <= 0.05 for x in found])
        assert share == pytest.approx(largest[n], abs=deviation(largest[n]))


def test_family_wise_error_of_holm_over_six_methods() -> None:
    """Six methods equal to their common baseline: at most 5 % of tables may have a false star; unadjusted, many do."""
    values = np.random.default_rng(0).normal(75, 0.2, (NUM // 2, 7, 8))
    tables = [[paired(dict(enumerate(row)), dict(enumerate(rows[0]))).t_p for row in rows[1:]] for rows in values]
    assert np.mean([min(holm(p)) <= 0.05 for p in tables]) <= 0.05 + deviation(0.05, NUM // 2)
    assert np.mean([min(holm(p)) <= 0.05 for p in tables]) > 0.02
    assert np.mean([min(p) <= 0.05 for p in tables]) > 0.1
