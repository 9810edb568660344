"""Ranks against the worked example of Demsar (2006), SciPy and values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import f, wilcoxon

from kdbench.analysis.stats.multiple import holm
from kdbench.analysis.stats.ranks import (
    average_ranks,
    cliques,
    friedman,
    iman_davenport,
    nemenyi,
    rank_stability,
    wilcoxon_holm,
)

C45 = np.array(
    [
        [4, 1, 4, 4, 4, 1, 3, 2.5, 4, 2.5, 4, 3, 4, 3],
        [3, 2, 1, 1, 2, 2.5, 2, 2.5, 3, 2.5, 2.5, 2, 1, 1],
        [2, 3, 2, 3, 3, 4, 4, 4, 2, 2.5, 1, 4, 2, 4],
        [1, 4, 3, 2, 1, 2.5, 1, 1, 1, 2.5, 2.5, 1, 3, 2],
    ]
)
"""Ranks of C4.5, +m, +cf, +m+cf on 14 data sets (Demsar 2006, table 6)."""
C45_TIES = 1 - (3 * (2**3 - 2) + (4**3 - 4)) / (14 * (4**3 - 4))
"""Kendall's correction for three ties of two and one of four, which Demsar's formula leaves out."""


def test_demsars_example() -> None:
    """Average ranks 3.143, 2.000, 2.893, 1.964; 9.28 before the correction for ties; 1.25 at 5 %."""
    found = friedman(-C45)
    assert found.average_ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert found.statistic * C45_TIES == pytest.approx(9.28, abs=5e-3)
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert found.cliques == ((3, 1, 2, 0),)
    assert average_ranks(-C45) == pytest.approx(found.average_ranks)


def test_demsars_example_at_10_percent() -> None:
    """1.12: C4.5 is worse than +m and +m+cf, and nothing can be said of +cf."""
    found = friedman(-C45, level=0.9)
    assert found.critical_difference == pytest.approx(1.12, abs=5e-3)
    assert found.cliques == ((3, 1, 2), (2, 0))
    below = {(i, j) for i, j in zip(*np.where(nemenyi(-C45) < 0.1), strict=True) if i < j}
    assert below == {(0, 1), (0, 3)}


def test_iman_and_davenport_in_demsars_example() -> None:
    assert iman_davenport(9.28, 4, 14) == pytest.approx(3.69, abs=5e-3)
    assert iman_davenport(2 * 3, 3, 3) == math.inf


def test_f_is_the_analysis_of_variance_of_the_ranks() -> None:
    """Sum of squares of methods over that of the rest, each by its degrees of freedom; with ties too."""
    found = friedman(-C45)
    methods = 14 * ((C45.mean(axis=1) - 2.5) ** 2).sum()
    rest = ((C45 - 2.5) ** 2).sum() - methods
    assert found.f_statistic == pytest.approx((methods / 3) / (rest / 39))
    assert found.f_p == pytest.approx(f.sf((methods / 3) / (rest / 39), 3, 39))


@pytest.mark.parametrize(
    ("num_methods", "quantile"), [(3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (8, 3.031), (10, 3.164)]
)
def test_critical_values_of_demsars_table_5(num_methods: int, quantile: float) -> None:
    scores = np.random.default_rng(0).normal(size=(num_methods, 13))
    expected = quantile * math.sqrt(num_methods * (num_methods + 1) / (6 * 13))
    assert friedman(scores).critical_difference == pytest.approx(expected, abs=1e-3)


def test_the_p_of_the_critical_difference_is_one_minus_the_level() -> None:
    scores = np.random.default_rng(2).normal(size=(5, 7)) + np.linspace(0, 3, 5)[:, None]
    found, p_values = friedman(scores), nemenyi(scores)
    gaps = abs(np.subtract.outer(found.average_ranks, found.average_ranks))
    assert ((p_values <= 0.05) == (gaps >= found.critical_difference)).all()
    assert (p_values <= 0.05).any()
    assert (np.diag(p_values) == 1).all()


def test_the_highest_score_has_rank_one_and_ties_are_seen_through_rounding() -> None:
    """In the second block 75.1 - 74.9 and 80.2 - 80.0 tie."""
    found = friedman([[3.0, 75.1 - 74.9], [2.0, 80.2 - 80.0], [1.0, 0.1]])
    assert found.average_ranks.tolist() == [1.25, 1.75, 3]


def test_methods_that_always_tie() -> None:
    found = friedman(np.ones((3, 4)))
    assert (found.statistic, found.p, found.f_statistic, found.f_p) == (0, 1, 0, 1)
    assert found.cliques == ((0, 1, 2),)


def test_a_perfect_order() -> None:
    """N (K-1) is the largest statistic: 8 for 3 methods and 4 blocks, where F is infinite."""
    found = friedman([[3.0] * 4, [2.0] * 4, [1.0] * 4])
    assert found.statistic == pytest.approx(8)
    assert (found.f_statistic, found.f_p) == (math.inf, 0)
    assert found.p == pytest.approx(math.exp(-4))


def test_cliques_by_hand() -> None:
    """0 < 1 < 2 < 3 < 4 in rank; 0 differs from 2 on, 1 from 4, 4 from all but 3."""
    different = np.zeros((5, 5), dtype=bool)
    for i, j in ((0, 2), (0, 3), (0, 4), (1, 4), (2, 4)):
        different[i, j] = different[j, i] = True
    assert cliques([1, 2, 3, 4, 5], different) == ((0, 1), (1, 2, 3), (3, 4))
    assert cliques([5, 4, 3, 2, 1], different[::-1, ::-1]) == ((4, 3), (3, 2, 1), (1, 0))
    assert cliques([1, 2, 3], ~np.eye(3, dtype=bool)) == ()
    assert cliques([2, 3, 1], np.zeros((3, 3))) == ((2, 0, 1),)


@given(arrays(float, (6,), elements=st.integers(1, 6)), st.floats(0.1, 5))
def test_cliques_hold_all_that_is_not_told_apart(ranks: np.ndarray, critical: float) -> None:
    different = abs(np.subtract.outer(ranks, ranks)) >= critical
    groups = [set(group) for group in cliques(ranks, different)]
    for i in range(6):
        for j in range(i):
            assert any({i, j} <= group for group in groups) == (not different[i, j])
    assert not any(a < b for a in groups for b in groups)


def test_wilcoxon_holm_against_scipy() -> None:
    scores = np.random.default_rng(5).normal(size=(4, 12)) + np.array([0, 0.3, 0.8, 2.0])[:, None]
    found = wilcoxon_holm(scores)
    upper = np.triu_indices(4, 1)
    pairs = zip(*upper, strict=True)
    single = [wilcoxon(scores[i] - scores[j], method="exact").pvalue for i, j in pairs]
    assert found[upper] == pytest.approx(holm(single))
    assert (found == found.T).all()
    assert (np.diag(found) == 1).all()
    assert found[upper].min() < 0.05 < found[upper].max()


def test_holm_over_methods_needs_many_blocks() -> None:
    """A perfect order of 6 methods: 15 x 2^(1-N) is 0.029 for 10 blocks, 0.059 for 9."""
    rows = np.arange(6.0)[:, None] * np.ones(10)
    upper = np.triu_indices(6, 1)
    assert wilcoxon_holm(rows)[upper] == pytest.approx(15 / 512)
    assert wilcoxon_holm(rows[:, :9])[upper] == pytest.approx(15 / 256)
    assert wilcoxon_holm(rows[:2])[0, 1] == 2 / 1024


def test_rank_stability_by_hand() -> None:
    """Of 6 pairs of methods 5 agree: 4/6. With a tie in one order 5 pairs are left: 5/sqrt(5 x 6)."""
    first = {"kd": 75.0, "dkd": 76.0, "crd": 75.5, "fitnet": 73.0, "only here": 99.0}
    second = {"dkd": 71.0, "kd": 70.0, "crd": 69.0, "fitnet": 60.0}
    found = rank_stability(first, second)
    assert (found.tau, found.n) == (pytest.approx(4 / 6), 4)
    assert found.p == pytest.approx(2 * 4 / 24)
    tied = {"kd": 75.1 - 74.9, "crd": 80.2 - 80.0, "dkd": 1.0, "fitnet": 0.0}
    assert rank_stability(tied, second).tau == pytest.approx(5 / math.sqrt(30))
    assert rank_stability(first, {name: -value for name, value in first.items()}).tau == pytest.approx(-1)


def test_rank_stability_without_an_order_is_nan() -> None:
    assert math.isnan(rank_stability({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}).tau)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: friedman(np.ones((2, 9))), "2 methods: at least 3"),
        (lambda: friedman(np.ones((3, 1))), "1 block: at least 2 pairs"),
        (lambda: friedman(np.ones(3)), "methods x blocks"),
        (lambda: friedman([[1.0, 2.0], [1.0, math.nan], [2.0, 3.0]]), "a score in every block"),
        (lambda: friedman(np.ones((3, 3)), level=95), "level 95"),
        (lambda: wilcoxon_holm(np.ones((1, 9))), "1 method: at least 2"),
        (lambda: rank_stability({"a": 1.0}, {"a": 2.0, "b": 1.0}), "1 common method"),
        (lambda: rank_stability({"a": 1.0, "b": math.nan}, {"a": 2.0, "b": 1.0}), "must be finite"),
    ],
)
def test_mistakes_are_named(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()  # type: ignore[operator]
