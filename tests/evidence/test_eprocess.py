"""The e-process: compared with high-precision quadrature, and its error in null campaigns.

Covers: evidence/betting.py, evidence/signflip.py.
"""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from stagezero.evidence import critical_t, e_value, log_e_value, sd_floor, t_statistics


def exact_log_e(t: float, k: int) -> float:
    """Return log E in 30 digits: the ratio by Kummer functions, the mixture by quadrature."""
    mpmath.mp.dps = 30
    t_, k_ = mpmath.mpf(t), mpmath.mpf(k)
    r = t_ / mpmath.sqrt(t_ * t_ + k_ - 1)

    def ratio(delta: mpmath.mpf) -> mpmath.mpf:
        z = delta * mpmath.sqrt(k_) * r
        even = mpmath.hyp1f1(k_ / 2, 0.5, z * z / 2)
        odd = z * mpmath.sqrt(2) * mpmath.gamma((k_ + 1) / 2) / mpmath.gamma(k_ / 2) * mpmath.hyp1f1((k_ + 1) / 2, 1.5, z * z / 2)
        return mpmath.exp(-k_ * delta * delta / 2) * (even + odd) * 2 / (mpmath.pi * (1 + delta * delta))

    edges = [0, 0.05, 0.2, 0.5, 1, 2, 4, 8, 16, 64, 256, mpmath.inf]
    return float(mpmath.log(mpmath.quad(ratio, edges)))


@pytest.mark.parametrize(
    ("t", "k"), [(0.0, 2), (1.0, 2), (12.0, 3), (3.0, 5), (-2.0, 10), (5.0, 10), (4.2, 25), (-1.0, 60), (6.0, 60), (300.0, 2), (40.0, 4)]
)
def test_log_e_values_agree_with_high_precision_quadrature(t: float, k: int) -> None:
    assert log_e_value(t, k) == pytest.approx(exact_log_e(t, k), abs=1e-6)


def logarithmic_log_e(t: float, k: int) -> float:
    """Return log E where Kummer functions fail: sums on logarithmic axes, in 25 digits."""
    mpmath.mp.dps = 25
    t_, k_ = mpmath.mpf(t), mpmath.mpf(k)
    r = t_ / mpmath.sqrt(t_ * t_ + k_ - 1)
    norm = (k_ / 2 - 1) * mpmath.log(2) + mpmath.loggamma(k_ / 2)

    def log_chi(z: mpmath.mpf) -> mpmath.mpf:
        mode = (z + mpmath.sqrt(z * z + 4 * k_)) / 2
        width = 1 / mpmath.sqrt(k_ + mode * mode)
        step, log_mode = width / 2, mpmath.log(mode)
        ratio, y = mpmath.exp(step), mode * mpmath.exp(-28 * step)
        terms = []
        for i in range(-28, 29):
            terms.append(k_ * (log_mode + i * step) - y * y / 2 + z * y)
            y *= ratio
        top = max(terms)
        return top + mpmath.log(sum(mpmath.exp(x - top) for x in terms)) + mpmath.log(step) - norm

    def term(u: mpmath.mpf) -> mpmath.mpf:
        delta = mpmath.exp(u)
        prior = mpmath.log(2 / mpmath.pi) - mpmath.log(1 + delta * delta)
        return -k_ * delta * delta / 2 + log_chi(delta * mpmath.sqrt(k_) * r) + prior + u

    # The integrand matters around its largest value, which a coarse grid finds.
    coarse = [mpmath.mpf(i) / 4 for i in range(-100, 61)]
    values = [term(u) for u in coarse]
    top = max(values)
    near = [u for u, v in zip(coarse, values, strict=True) if v > top - 45]
    step = mpmath.mpf("0.5") / mpmath.sqrt(k_) if k > 16 else mpmath.mpf("0.1")
    low, high = min(near) - mpmath.mpf("0.25"), max(near) + mpmath.mpf("0.25")
    n = int((high - low) / step) + 1
    fine = [term(low + i * step) for i in range(n)] if n < 4000 else []
    assert fine
    return float(top + mpmath.log(sum(mpmath.exp(v - top) for v in fine)) + mpmath.log(step))


@pytest.mark.parametrize(("t", "k"), [(1e4, 2), (1e4, 30), (-1e4, 30), (40.0, 1000), (1e4, 1000), (300.0, 200)])
def test_log_e_values_agree_with_high_precision_sums_at_the_extremes(t: float, k: int) -> None:
    assert log_e_value(t, k) == pytest.approx(logarithmic_log_e(t, k), rel=1e-7, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("t", [-20.0, 0.5])
def test_log_e_values_agree_with_high_precision_sums_at_many_pairs(t: float) -> None:
    assert log_e_value(t, 1000) == pytest.approx(logarithmic_log_e(t, 1000), rel=1e-7, abs=1e-6)


@pytest.mark.parametrize("k", [2, 10, 100, 1000])
@pytest.mark.parametrize("t", [-1e4, -30.0, 30.0, 1e4, math.inf, -math.inf])
def test_log_e_values_are_finite_and_ordered_at_the_extremes(t: float, k: int) -> None:
    value = log_e_value(t, k)
    assert math.isfinite(value)
    assert (value > 0) == (t > 0)


def test_log_e_values_grow_evenly_up_to_the_largest_searched_t() -> None:
    for k in (2, 5, 25):
        values = [log_e_value(10.0**n, k) for n in range(1, 8)]
        steps = [b - a for a, b in itertools.pairwise(values)]
        assert all(s > 0 for s in steps) and max(steps) < 2 * k * math.log(10), (k, values)


def test_log_e_values_grow_with_t_and_start_at_zero() -> None:
    assert log_e_value(5.0, 1) == 0.0
    values = [log_e_value(t, 12) for t in np.linspace(-6, 12, 40)]
    assert all(a < b for a, b in itertools.pairwise(values))


def test_critical_t_reaches_the_threshold() -> None:
    for k in (3, 8, 25):
        assert math.exp(log_e_value(critical_t(k, 480.0), k)) == pytest.approx(480.0, rel=1e-6)
    assert critical_t(1, 20.0) == math.inf


def test_equal_differences_need_a_floor_on_the_sd() -> None:
    wins = [0.02] * 5
    assert e_value(wins, 0.0, floor=0.0) > 1e6
    assert e_value(wins, 0.0, floor=float(sd_floor(0.05, 50))) < 20
    assert e_value([0.0] * 9, 0.0, floor=0.01) <= 1.0
    assert e_value([0.3], 0.0, floor=0.01) == 1.0


def _crossings(draws: np.ndarray, threshold: float, floor: float) -> int:
    """Return the number of rows that ever reach the threshold, tested after every pair."""
    t = t_statistics(draws, 0.0, np.full(len(draws), floor))
    return int((t >= [critical_t(k, threshold) for k in range(1, draws.shape[1] + 1)]).any(1).sum())


def test_t_statistics_agree_with_scipy() -> None:
    rows = np.random.default_rng(3).normal(0.1, 1.0, (50, 9))
    statistics = t_statistics(rows, 0.0, np.zeros(50))
    for k in range(2, 10):
        assert statistics[:, k - 1] == pytest.approx(stats.ttest_1samp(rows[:, :k], 0.0, axis=1).statistic, rel=1e-9)
    equal = t_statistics(np.array([[0.02] * 4, [-0.02] * 4, [0.0] * 4]), 0.0, np.array([0.01, 0.01, 0.01]))
    assert equal[0, -1] == pytest.approx(4.0) and equal[1, -1] == -math.inf and equal[2, -1] == 0.0 and not equal[:, 0].any()


def test_testing_after_every_pair_does_not_exceed_the_error() -> None:
    alpha, runs = 0.05, 4000
    draws = np.random.default_rng(1).normal(0.0, 0.04, (runs, 25))
    crossed = _crossings(draws, 1 / alpha, floor=0.02)
    assert stats.binomtest(crossed, runs, alpha, "greater").pvalue > 1e-3


def test_negative_control_a_t_test_after_every_pair_exceeds_the_error() -> None:
    alpha, runs = 0.05, 4000
    draws = np.random.default_rng(1).normal(0.0, 0.04, (runs, 25))
    crossed = np.zeros(runs, dtype=bool)
    for k in range(2, 26):
        first = draws[:, :k]
        crossed |= first.mean(1) * math.sqrt(k) / first.std(1, ddof=1) >= stats.t.ppf(1 - alpha, k - 1)
    assert stats.binomtest(int(crossed.sum()), runs, alpha, "greater").pvalue < 1e-6


def test_negative_control_grid_scores_without_the_floor_exceed_the_error() -> None:
    alpha, runs = 0.05, 3000
    draws = np.random.default_rng(2).choice([-0.05, 0.0, 0.05], (runs, 25))  # ten items of each kind, and little noise
    assert stats.binomtest(_crossings(draws, 1 / alpha, floor=0.0), runs, alpha, "greater").pvalue < 1e-6
    assert stats.binomtest(_crossings(draws, 1 / alpha, floor=float(sd_floor(0.041, 10))), runs, alpha, "greater").pvalue > 1e-3
