"""Gains over many pairs, and probabilities of improvement, against published numbers and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t, ttest_ind
from statsmodels.stats.proportion import proportion_confint
from test_stats import SCORES

from kdbench.analysis.stats.paired import t_interval
from kdbench.analysis.stats.pooled import pooled_gain, probability_of_improvement, stratified_bootstrap, win_tie_loss


def test_one_pair_is_its_t_interval() -> None:
    values = [0.1, 0.4, 0.3]
    found, expected = pooled_gain([values]), t_interval(values)
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert found.n == 1
    assert math.isnan(found.sd)


def test_pooled_gain_is_welchs_t_for_two_pairs() -> None:
    """The mean of two pairs is half of x - (-y), whose interval SciPy knows (Welch 1947)."""
    x, y = np.array([0.1, 0.4, 0.3]), np.array([1.0, -1.0, 0.5, 2.0, 0.7])
    expected = ttest_ind(x, -y, equal_var=False).confidence_interval(0.9)
    found = pooled_gain([x, y], level=0.9)
    assert (found.low, found.high) == pytest.approx((expected.low / 2, expected.high / 2))
    assert found.mean == pytest.approx((x.mean() + y.mean()) / 2)
    assert found.sd == pytest.approx(abs(x.mean() - y.mean()) / math.sqrt(2))


def test_half_width_over_13_pairs() -> None:
    """sd 1 in each pair of three seeds: 26 degrees of freedom, for which tables give 2.056."""
    found = pooled_gain([[-1.0, 0.0, 1.0]] * 13)
    assert found.high == -found.low == pytest.approx(2.056 / math.sqrt(39), rel=1e-3)


def test_equal_clusters_are_a_t_interval_over_their_means() -> None:
    """With as many pairs each, clusters are a sample of their means with n - 1 degrees of freedom."""
    means = np.array([0.1, 0.5, 0.3, -0.2])
    pairs = [[m + d - 0.1, m + d + 0.1] for m in means for d in (-0.05, 0.05)]
    found = pooled_gain(pairs, clusters=[name for name in "abcd" for _ in range(2)])
    expected = t_interval(means)
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert found.n == 8


def test_unequal_clusters_by_their_linear_forms() -> None:
    """CR3, which divides residuals by 1 - leverage; degrees of freedom from the eigenvalues of the quadratic form."""
    means, clusters = np.array([0.5, 0.1, 0.3, 0.2, -0.4, 0.6, 0.7]), list("aaabbcd")
    groups = [np.flatnonzero(np.array(clusters) == name) for name in "abcd"]
    forms = np.stack([(np.isin(range(7), g) - len(g) / 7) / (1 - len(g) / 7) / 7 for g in groups])
    variance = 3 / 4 * ((forms @ means) ** 2).sum()
    spectrum = np.linalg.eigvalsh(3 / 4 * forms @ forms.T)
    df = spectrum.sum() ** 2 / (spectrum**2).sum()
    found = pooled_gain([[m - 0.1, m + 0.1] for m in means], clusters=clusters)
    assert (found.high - found.low) / 2 == pytest.approx(t.ppf(0.975, df) * math.sqrt(variance))


@given(st.permutations(range(6)))
@settings(max_examples=20)
def test_pooled_gain_does_not_depend_on_the_order(order: list[int]) -> None:
    pairs = np.random.default_rng(1).normal(size=(6, 4))
    names = np.array(list("abbccc"))
    for clusters in (None, names):
        one = pooled_gain(list(pairs), clusters=clusters)
        other = pooled_gain(list(pairs[order][:, ::-1]), clusters=None if clusters is None else names[order])
        assert (other.mean, other.low, other.high) == pytest.approx((one.mean, one.low, one.high))


@pytest.mark.parametrize("clusters", [None, ("a", "b", "c")])
def test_equal_gains_have_no_interval(clusters: tuple[str, ...] | None) -> None:
    """Three equal differences do not show how much others vary."""
    gains = [[75.1 - 74.9, 80.2 - 80.0], [0.4, 0.4], [0.3, 0.3]] if clusters is None else [[0.4, 0.4]] * 3
    found = pooled_gain(gains, clusters=clusters)
    assert found.mean == pytest.approx(0.4 if clusters else 0.3)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.excludes_zero
    resampled = stratified_bootstrap(gains)
    assert (resampled.mean, math.isnan(resampled.low), math.isnan(resampled.high)) == (found.mean, True, True)
    assert not pooled_gain([[1e-13, 2e-13]]).excludes_zero


def test_probability_of_improvement_by_hand() -> None:
    """First pair: 3 wins and a tie of 4; second: none of 4. Wilson for 3.5 of 8 x 2 / 4 trials."""
    found = probability_of_improvement([[75.1, 76.0], [1.0, 2.0]], [[74.9, 75.1], [3.0, 4.0]])
    assert found.mean == (3.5 / 4 + 0) / 2
    assert (found.n, found.sd) == (2, pytest.approx(3.5 / 4 / math.sqrt(2)))
    assert probability_of_improvement([[0.3]], [[75.2 - 74.9]]).mean == 0.5


@pytest.mark.parametrize(("wins", "trials"), [(0, 3), (3, 3), (18, 39), (39, 39)])
def test_the_interval_of_a_probability_is_wilsons(wins: int, trials: int) -> None:
    first = np.concatenate([np.ones(wins), np.zeros(trials - wins)]).reshape(-1, 3)
    found = probability_of_improvement(list(first), [[0.5] * 3] * len(first))
    expected = proportion_confint(wins, trials, method="wilson")
    assert (found.mean, found.low, found.high) == pytest.approx((wins / trials, *expected))


def test_the_pair_with_the_fewest_runs_counts() -> None:
    """One win of one, and two halves of 2 x 3: as sure as 1.5 of 2 trials."""
    found = probability_of_improvement([[1.0], [0.0, 2.0]], [[0.0], [1.0, 1.0, 1.0]])
    assert (found.low, found.high) == pytest.approx(proportion_confint(1.5, 2, method="wilson"))


@given(st.lists(st.tuples(*[st.lists(SCORES, min_size=1, max_size=4)] * 2), min_size=1, max_size=4))
def test_probabilities_of_both_directions_sum_to_one(pairs: list[tuple[list[float], list[float]]]) -> None:
    first, second = zip(*pairs, strict=True)
    one, other = probability_of_improvement(first, second), probability_of_improvement(second, first)
    assert (other.mean, other.low, other.high) == pytest.approx((1 - one.mean, 1 - one.high, 1 - one.low))
    assert 0 <= one.low <= one.mean <= one.high <= 1


def test_win_tie_loss_has_an_inclusive_margin() -> None:
    assert win_tie_loss([0.3, 75.1 - 74.9, 80.2 - 80.0, 0.0, -0.2, -0.21, 0.2 + 2e-13], 0.2) == (1, 5, 1)
    assert win_tie_loss([0.1, -0.1, 0.0], 0) == (1, 1, 1)
