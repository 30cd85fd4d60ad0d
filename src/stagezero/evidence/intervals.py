"""Intervals and bounds. Everything here takes one number per seed, never per item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its two-sided interval; the interval is infinite for fewer than two seeds."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def t_interval(values: Sequence[float], level: float = 0.95, floor: float = 0.0, seeds: Sequence[object] | None = None) -> Estimate:
    """Student's interval for a mean, clustered by seed; exact for normal values, one a seed.

    Values from one seed share its build and its luck, so only seeds count as independent: the variance is that of the
    seeds' sums about the overall mean, with one degree of freedom less than there are seeds. With one value a seed this is the
    textbook interval. It is too short when values are far from normal: with collapses in 5-10 % of the seeds and few
    seeds, an interval from seeds that saw none misses the mean (benchmarks/coverage.py has the figures).

    Args:
        values: at least one.
        level: coverage.
        floor: the least standard deviation believed; scores lie on a grid, and a few equal ones show no spread.
        seeds: which seed each value came from; every value its own when None.

    Returns:
        ``n`` counts seeds; with fewer than two the interval is infinite.

    Raises:
        ValueError: ``seeds`` has another length than ``values``.
    """
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    if seeds is None:
        sums: NDArray[np.float64] = found - mean
        sizes: NDArray[np.float64] = np.ones(len(found))
    else:
        if len(seeds) != len(found):
            raise ValueError(f"seeds: expected one for each of {len(found)} values, got {len(seeds)}")
        order = {seed: i for i, seed in enumerate(dict.fromkeys(seeds))}
        which = [order[seed] for seed in seeds]
        sums = np.asarray(np.bincount(which, weights=found - mean), dtype=np.float64)
        sizes = np.asarray(np.bincount(which), dtype=np.float64)
    n = len(sums)
    if n < 2:
        return Estimate(mean, -math.inf, math.inf, n)
    spread = max(math.sqrt(n / (n - 1) * float((sums**2).sum())) / float(sizes.sum()) * math.sqrt(n), floor)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * spread / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def clopper_pearson_lower(right: int, n: int, level: float) -> float:
    """Exact lower confidence bound for a proportion: its true value lies below with probability at most ``level``."""
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"right, n: expected 0 ≤ right ≤ n and n ≥ 1, got {right} and {n}")
    return 0.0 if right == 0 else float(stats.beta.ppf(level, right, n - right + 1))


def proportion(right: int, n: int, level: float = 0.95) -> Estimate:
    """A proportion with its exact two-sided interval (Clopper & Pearson 1934); nothing is known of one out of none."""
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    tail = (1 - level) / 2
    high = 1.0 if right == n else float(stats.beta.ppf(1 - tail, right + 1, n - right))
    return Estimate(right / n, clopper_pearson_lower(right, n, tail), high, n)


def collapse_rate_bound(n: int, level: float = 0.05) -> float:
    """Exact upper bound on the rate of an event not seen in n seeds (0 of 12: 22 %)."""
    return float(1.0 - level ** (1.0 / n))


def pooled_sd(null_differences: Sequence[float]) -> float:
    """Standard deviation of A/A differences, whose mean is known to be zero."""
    found = np.asarray(null_differences, dtype=np.float64)
    return float(np.sqrt(np.mean(found * found))) if len(found) else 0.0
