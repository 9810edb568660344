"""Statistics against published examples, R, SciPy, statsmodels and values worked out by hand."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, wilcoxon
from statsmodels.stats.multitest import multipletests

from kdbench.analysis.stats import paired as stats
from kdbench.analysis.stats.multiple import holm
from kdbench.analysis.stats.paired import (
    can_reach,
    midranks,
    paired,
    sign_flip_p,
    smallest_p,
    t_interval,
    wilcoxon_p,
)
from kdbench.analysis.stats.pooled import pooled_gain, probability_of_improvement, win_tie_loss

DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
"""Crossed minus self-fertilised maize, eighths of an inch (Fisher 1935, section 17)."""
SLEEP = (
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)
"""Hours of extra sleep with two drugs (Student 1908)."""
SCORES = st.floats(-100, 100).map(lambda value: round(value, 2))
BY_SEED = st.dictionaries(st.integers(0, 30), SCORES, min_size=1, max_size=9)


def by_seed(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


def test_students_sleep_as_r_gives_it() -> None:
    """``t.test(extra ~ group, paired = TRUE)``: t = -4.0621, p = 0.002833, [-2.4598858, -0.7001142]."""
    found = paired(by_seed(SLEEP[0]), by_seed(SLEEP[1]))
    assert found.interval.mean == pytest.approx(-1.58)
    assert (found.interval.low, found.interval.high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    assert found.interval.mean / (found.interval.sd / math.sqrt(10)) == pytest.approx(-4.0621, abs=5e-5)
    assert found.t_p == pytest.approx(0.002833, abs=5e-7)
    assert found.interval.excludes_zero
    # Nine differences of one sign and a zero: two of 2^9 patterns are as extreme.
    assert found.sign_flip_p == found.wilcoxon_p == found.smallest_p == 2 / 512


def test_darwins_maize_as_fisher_and_r_give_it() -> None:
    """Fisher (1935, section 21): 863 of 32,768 patterns reach the sum of 314; R: t p 0.0497, V = 96, p = 0.04126."""
    found = paired(by_seed([float(value) for value in DARWIN]), dict.fromkeys(range(15), 0.0))
    assert found.sign_flip_p == 2 * 863 / 32768
    assert found.t_p == pytest.approx(0.0497, abs=5e-5)
    assert found.wilcoxon_p == pytest.approx(0.04126, abs=5e-6)
    assert found.smallest_p == 2 / 32768
    assert (found.interval.low / 8, found.interval.high / 8) == pytest.approx((0.0036, 5.2297), abs=3e-4)


def test_t_interval_by_hand() -> None:
    """1, 2, 3: mean 2, sd 1, and t is 4.303 for 2 degrees of freedom."""
    found = t_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.sd, found.n, found.level) == (2, 1, 3, 0.95)
    assert found.high - 2 == pytest.approx(4.303 / math.sqrt(3), abs=5e-4)
    assert found.low + found.high == pytest.approx(4)
    assert not found.excludes_zero
    assert found.excludes(5)
    assert t_interval([1.0, 2.0, 3.0], level=0.9).high - 2 == pytest.approx(2.920 / math.sqrt(3), abs=5e-4)


def test_one_seed_has_a_mean_only() -> None:
    found = paired({4: 75.0, 5: 1.0}, {4: 74.0})
    assert (found.seeds, found.interval.mean, found.interval.n) == ((4,), 1, 1)
    assert all(math.isnan(x) for x in (found.interval.low, found.interval.high, found.interval.sd, found.t_p))
    assert not found.interval.excludes_zero
    assert (found.sign_flip_p, found.wilcoxon_p, found.smallest_p) == (1, 1, 1)


@pytest.mark.parametrize("gain", [0.2, 0])
def test_constant_differences_have_no_t_test_and_no_interval(gain: float) -> None:
    """The gains are equal, their floats are not: 75.1 - 74.9 is 0.19999999999998863."""
    base = {0: 74.9, 1: 80.0, 2: 33.3, 3: 60.1}
    first = {0: 75.1, 1: 80.2, 2: 33.5, 3: 60.3} if gain else {k: v + 1e-13 for k, v in base.items()}
    found = paired(first, base)
    assert (found.interval.mean, found.interval.sd) == (pytest.approx(gain, abs=1e-9), 0)
    assert all(math.isnan(x) for x in (found.t_p, found.interval.low, found.interval.high))
    assert not found.interval.excludes_zero
    assert found.sign_flip_p == found.wilcoxon_p == found.smallest_p == (2 / 16 if gain else 1)


def test_ties_are_seen_through_rounding() -> None:
    """|d| = 0.2, 0.2, 0.2, 0.5, one 0.2 negative: 3.1 of ranks 2, 2, 2, 4 and 10 of 16 patterns by the mean."""
    found = paired({0: 75.1, 1: 80.2, 2: 60.0, 3: 50.5}, {0: 74.9, 1: 80.0, 2: 60.2, 3: 50.0})
    ranks, sizes = [2, 2, 2, 4], [2, 2, 2, 5]
    for p, weights, total in ((found.wilcoxon_p, ranks, 6), (found.sign_flip_p, sizes, 7)):
        flips = itertools.product([1, -1], repeat=4)
        assert p == np.mean([abs(sum(s * w for s, w in zip(f, weights, strict=True))) >= total for f in flips])
    assert midranks([0.5, 75.1 - 74.9, 80.2 - 80.0, 0.1]).tolist() == [4, 2.5, 2.5, 1]


@pytest.mark.parametrize("n", [3, 8, 14, 30])
def test_wilcoxon_against_scipy_without_ties(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    assert wilcoxon_p(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue, rel=1e-12)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_exact_tests_against_every_pattern_of_signs(differences: list[int]) -> None:
    """Slow and literal, with many ties and zeros."""
    nonzero = [d for d in differences if d]
    for p, sizes in (
        (sign_flip_p(differences), np.abs(nonzero)),
        (wilcoxon_p(differences), rankdata(np.abs(nonzero)) if nonzero else np.zeros(0)),
    ):
        seen = abs(np.sum(np.sign(nonzero) * sizes))
        flips = [abs(np.dot(f, sizes)) for f in itertools.product([1, -1], repeat=len(nonzero))]
        assert p == pytest.approx(np.mean([x >= seen - 1e-9 for x in flips]))


@pytest.mark.parametrize("sign", [1, -1])
def test_many_seeds_are_sampled(sign: int) -> None:
    """All patterns of 20 whole numbers, counted by their sum, give p; 9,999 draws come within four deviations of it."""
    sizes = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]
    differences = [sign * (-size if index in (3, 5, 11, 14, 18) else size) for index, size in enumerate(sizes)]
    patterns = np.ones(1)
    for size in sizes:
        patterns = np.convolve(patterns, [0.5, *[0] * (2 * size - 1), 0.5])
    sums = np.arange(-sum(sizes), sum(sizes) + 1)
    p = patterns[abs(sums) >= abs(sum(differences))].sum()
    found = paired(by_seed([float(d) for d in differences]), dict.fromkeys(range(20), 0.0)).sign_flip_p
    assert 0.03 < p < 0.3
    assert found == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 9999))
    assert found == sign_flip_p([-d for d in differences]) == sign_flip_p(differences[::-1])


def test_a_sampled_p_is_never_zero() -> None:
    """Of 9,999 draws and the pattern that was seen, only the latter has 30 equal signs."""
    assert sign_flip_p([1.0] * 30) == 1 / 10_000


@given(BY_SEED, BY_SEED)
def test_paired_is_antisymmetric_and_blind_to_the_names_and_order_of_seeds(
    first: dict[int, float], second: dict[int, float]
) -> None:
    second = second | {next(iter(first)): 1.0}
    one, other = paired(first, second), paired(second, first)
    assert other.differences == tuple(-d for d in one.differences)
    assert other.interval.mean == -one.interval.mean
    assert (other.interval.low, other.interval.high) == pytest.approx(
        (-one.interval.high, -one.interval.low), nan_ok=True
    )
    renamed = [{100 - k: values[k] for k in reversed(values)} for values in (first, second)]
    for again in (other, paired(*renamed)):
        for name in ("t_p", "sign_flip_p", "wilcoxon_p", "smallest_p"):
            assert getattr(again, name) == pytest.approx(getattr(one, name), rel=1e-6, nan_ok=True)
    for p in (one.sign_flip_p, one.wilcoxon_p):
        assert one.smallest_p <= p <= 1


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (1, 0.5, 0.5, 2), (1, 0.2, 0.2, 0.2)])
def test_weighted_holm_is_the_closed_test(weights: tuple[float, ...]) -> None:
    """Slow and literal: reject what every weighted Bonferroni test of a set with it rejects."""
    generator = np.random.default_rng(0)
    for p in generator.uniform(0, 0.3, (20, 4)).tolist():
        sets = [s for size in (1, 2, 3, 4) for s in itertools.combinations(range(4), size)]
        closed = {s: min(p[i] * sum(weights[j] for j in s) / weights[i] for i in s) for s in sets}
        expected = [min(1, max(value for s, value in closed.items() if i in s)) for i in range(4)]
        assert holm(p, weights) == pytest.approx(expected)


def test_holm_by_hand() -> None:
    """0.005 x 4, 0.01 x 3, then 0.03 x 2, which 0.04 x 1 may not undercut; nan does not count."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_nan = holm([0.01, math.nan, 0.04, 0.03, 0.005])
    assert math.isnan(with_nan[1])
    assert with_nan[:1] + with_nan[2:] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1, 1]


@pytest.mark.parametrize("num", [1, 2, 6, 15])
def test_holm_against_statsmodels(num: int) -> None:
    p_values = (np.random.default_rng(num).random(num) ** 3).tolist()
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist(), abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order(p_values: list[float]) -> None:
    found = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()
    assert all(p <= a <= 1 for p, a in zip(p_values, found, strict=True))


def test_what_so_few_seeds_can_show() -> None:
    """Two of 2^n patterns of signs are extreme."""
    assert [smallest_p(n) for n in (0, 1, 3, 4, 5, 6, 8)] == [1, 1, 0.25, 0.125, 0.0625, 0.03125, 0.0078125]
    assert [can_reach(n) for n in range(1, 9)] == [n >= 6 for n in range(1, 9)]
    assert [can_reach(n, 0.01) for n in (7, 8)] == [False, True]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: t_interval([]), "at least one value"),
        (lambda: t_interval([1.0, math.nan]), "must be finite"),
        (lambda: t_interval([1.0, 2.0], level=95), "level 95"),
        (lambda: paired({0: 1.0}, {1: 1.0}), r"no common seed: \[0\] and \[1\]"),
        (lambda: smallest_p(-1), "-1 differences"),
        (lambda: holm([0.5, 1.5]), "between 0 and 1"),
        (lambda: holm([0.5, 0.5], [1, 0]), "weights must be positive"),
        (lambda: holm([0.5, 0.5], [1]), "one per comparison"),
        (lambda: pooled_gain([]), "at least one value"),
        (lambda: pooled_gain([[1.0, 2.0], [1.0]]), "pair 2 has one seed"),
        (lambda: pooled_gain([[1.0, 2.0]] * 4, clusters=list("aabb")), r"2 clusters \(a, b\)"),
        (lambda: pooled_gain([[1.0, 2.0]] * 4, clusters=list("abc")), "3 names of clusters for 4 pairs"),
        (lambda: probability_of_improvement([[1.0]], []), "1 pairs of the first"),
        (lambda: probability_of_improvement([[1.0]], [[1.0]], level=0), "level 0"),
        (lambda: win_tie_loss([0.1], -0.2), "margin -0.2"),
        (lambda: win_tie_loss([math.nan], 0.2), "must be finite"),
    ],
)
def test_mistakes_are_named(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()  # type: ignore[operator]


def test_import_is_quick() -> None:
    """SciPy takes a second to import: only what computes with it loads it."""
    code = (
        "import sys; from kdbench.analysis.stats import paired, pooled, ranks; "
        "print({'scipy', 'torch'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"
    assert stats.NUM_ENUMERATED >= 15
