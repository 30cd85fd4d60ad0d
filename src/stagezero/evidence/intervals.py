"""Intervals, bounds and the guards' non-inferiority test. Everything here takes one number per seed, never per item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
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


def t_interval(values: Sequence[float], level: float = 0.95, floor: float = 0.0) -> Estimate:
    """Student's interval for the mean of one value a seed; exact for normal values.

    Args:
        values: at least one.
        level: coverage.
        floor: the least standard deviation believed; scores lie on a grid, and a few equal ones show no spread.
    """
    found = np.asarray(values, dtype=np.float64)
    n, mean = len(found), float(found.mean())
    if n < 2:
        return Estimate(mean, -math.inf, math.inf, n)
    spread = max(float(found.std(ddof=1)), floor)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * spread / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def clopper_pearson_lower(right: int, n: int, level: float) -> float:
    """Exact lower confidence bound for a proportion: its true value lies below with probability at most ``level``."""
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"right, n: expected 0 ≤ right ≤ n and n ≥ 1, got {right} and {n}")
    return 0.0 if right == 0 else float(stats.beta.ppf(level, right, n - right + 1))


def collapse_rate_bound(n: int, level: float = 0.05) -> float:
    """Exact upper bound on the rate of an event not seen in n seeds (0 of 12: 22 %)."""
    return float(1.0 - level ** (1.0 / n))


@dataclass(frozen=True, slots=True)
class Guard:
    """One side effect looked at: did it stay within its margin?"""

    name: str
    shown: Literal["holds", "fails", "not shown"]
    mean: float
    lower: float
    margin: float
    n: int


def non_inferiority(name: str, differences: Sequence[float], margin: float, floor: float, level: float = 0.05, least: int = 10) -> Guard:
    """Paired non-inferiority: is the mean difference above −margin?

    "holds" when the one-sided lower bound at ``level`` is above −margin; "fails" when the upper bound is below it;
    otherwise "not shown", which is not a pass. Fewer than ``least`` pairs are never enough.

    Args:
        differences: candidate − control, one a seed, signed so that larger is better.
        margin: the loss that would be tolerated, positive.
        floor: the least standard deviation believed.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    mean = float(values.mean()) if n else 0.0
    if n < 2:
        return Guard(name, "not shown", mean, -math.inf, margin, n)
    spread = max(float(values.std(ddof=1)), floor)
    half = float(stats.t.ppf(1 - level, n - 1)) * spread / math.sqrt(n)
    if n < least:
        return Guard(name, "not shown", mean, mean - half, margin, n)
    shown: Literal["holds", "fails", "not shown"] = "not shown"
    if mean - half > -margin:
        shown = "holds"
    elif mean + half < -margin:
        shown = "fails"
    return Guard(name, shown, mean, mean - half, margin, n)


def pooled_sd(null_differences: Sequence[float]) -> float:
    """Standard deviation of A/A differences, whose mean is known to be zero."""
    found = np.asarray(null_differences, dtype=np.float64)
    return float(np.sqrt(np.mean(found * found))) if len(found) else 0.0


def worth_continuing(differences: Sequence[float], margin: float, sd: float, worth: float, confidence: float = 2.0) -> bool:
    """Can the effect still be as large as ``worth`` seed standard deviations?

    Giving up costs no error (it can only lose power), so it is judged by the pooled seed noise, which is known from the
    start, and may happen after the first pair: False once mean + confidence·sd/√k < margin + worth·sd.
    """
    k = len(differences)
    mean = sum(differences) / k
    return mean + confidence * sd / math.sqrt(k) >= margin + worth * sd
