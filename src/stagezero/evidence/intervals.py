"""Confidence intervals and confidence bounds.

Every function here takes one number per seed, never one per item: items of one seed share a build
and are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, chdtri, stdtrit  # scipy.stats, which wraps them, takes two seconds to import

SCORE_BOUNDS = (0.0, 1.0)
DIFFERENCE_BOUNDS = (-1.0, 1.0)
"""The bounds of a score, and of a difference between two scores."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its two-sided confidence interval.

    ``n`` is the number of seeds. With fewer than two seeds the interval is infinite.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def t_interval(
    values: Sequence[float],
    level: float = 0.95,
    floor: float = 0.0,
    seeds: Sequence[object] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Return Student's t-interval for a mean, clustered by seed.

    The interval is exact for normal values, one per seed. Values of one seed share a build and its
    random error, so only seeds count as independent. The variance is that of the seeds' sums about
    the overall mean, and the degrees of freedom are the number of seeds minus one. With one value
    per seed this is the textbook interval. The interval is too short for values far from normal:
    if 5-10 % of the seeds collapse and there are few seeds, an interval from a sample without a
    collapse misses the mean (benchmarks/coverage.py has the figures).

    Args:
        values: at least one.
        level: coverage probability.
        floor: lower limit on the sample standard deviation. Scores lie on a grid, so a few equal
            ones have no spread.
        seeds: the seed of each value. If None, every value has its own seed.
        bounds: the smallest and the largest possible value. If all seeds agree, the sample has no
            spread to estimate from, and the interval is the exact one for a bounded value: another
            value than the observed one has a probability of at most 1 − ((1 − level)/2)^(1/n).

    Returns:
        The estimate; ``n`` counts seeds. With fewer than two seeds the interval is infinite.

    Raises:
        ValueError: ``seeds`` and ``values`` differ in length.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if seeds is None:
        sums: NDArray[np.float64] = array - mean
        sizes: NDArray[np.float64] = np.ones(len(array))
    else:
        if len(seeds) != len(array):
            raise ValueError(f"seeds: expected one for each of {len(array)} values, got {len(seeds)}")
        index_of_seed = {seed: i for i, seed in enumerate(dict.fromkeys(seeds))}
        clusters = [index_of_seed[seed] for seed in seeds]
        sums = np.asarray(np.bincount(clusters, weights=array - mean), dtype=np.float64)
        sizes = np.asarray(np.bincount(clusters), dtype=np.float64)
    n = len(sums)
    if n < 2:
        return Estimate(mean, -math.inf, math.inf, n)
    if bounds is not None and floor == 0 and float(np.ptp(array)) < 1e-12:
        share = collapse_rate_bound(n, (1 - level) / 2)
        return Estimate(mean, mean - share * (mean - bounds[0]), mean + share * (bounds[1] - mean), n)
    sd = max(math.sqrt(n / (n - 1) * float((sums**2).sum())) / float(sizes.sum()) * math.sqrt(n), floor)
    half_width = float(stdtrit(n - 1, 0.5 + level / 2)) * sd / math.sqrt(n)
    return Estimate(mean, mean - half_width, mean + half_width, n)


def clopper_pearson_lower(right: int, n: int, level: float) -> float:
    """Return the exact lower confidence bound for a proportion.

    The true proportion lies below the bound with probability at most ``level``.

    Args:
        right: number of successes.
        n: number of trials.
        level: error probability.

    Raises:
        ValueError: the counts are impossible.
    """
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"right, n: expected 0 ≤ right ≤ n and n ≥ 1, got {right} and {n}")
    return 0.0 if right == 0 else float(betaincinv(right, n - right + 1, level))


def sign_test(a: int, b: int) -> float:
    """Return the exact two-sided p-value of the sign test of ``a`` against ``b`` events.

    The p-value is that of a fair coin: min(1, 2 · P(X ≤ min(a, b))), X ~ binomial(a + b, ½).
    """
    n = a + b
    return min(1.0, 2.0 * sum(math.comb(n, i) for i in range(min(a, b) + 1)) / 2.0**n)


def proportion_interval(right: int, n: int, level: float = 0.95) -> Estimate:
    """Return a proportion with its exact two-sided confidence interval.

    With n = 0 the proportion is NaN and the interval is [0, 1].

    Args:
        right: number of successes.
        n: number of trials.
        level: coverage probability.

    Source: Clopper & Pearson 1934.
    """
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    tail = (1 - level) / 2
    high = 1.0 if right == n else float(betaincinv(right + 1, n - right, 1 - tail))
    return Estimate(right / n, clopper_pearson_lower(right, n, tail), high, n)


def collapse_rate_bound(n: int, level: float = 0.05) -> float:
    """Return the exact upper confidence bound on the rate of an event not observed in n seeds.

    For 0 of 12 seeds the bound is 22 %.

    Args:
        n: number of seeds.
        level: error probability.
    """
    return float(1.0 - level ** (1.0 / n))


def sd_interval(sd: float, n: int, level: float = 0.95) -> Estimate:
    """Return a standard deviation of ``n`` normal values with known mean, with its exact interval.

    Args:
        sd: the root mean square of the values.
        n: number of values, at least 1.
        level: coverage probability.
    """
    tail = (1 - level) / 2
    return Estimate(sd, sd * math.sqrt(n / float(chdtri(n, tail))), sd * math.sqrt(n / float(chdtri(n, 1 - tail))), n)


def pooled_sd(null_differences: Sequence[float]) -> float:
    """Return the standard deviation of A/A differences, whose mean is known to be zero."""
    array = np.asarray(null_differences, dtype=np.float64)
    return float(np.sqrt(np.mean(array * array))) if len(array) else 0.0
