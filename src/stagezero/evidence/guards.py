"""Guards: paired non-inferiority of everything that a claim is not about, over arrays (… × pairs). One value a seed, never one an item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
GUARD_LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Guard:
    """One side effect looked at: did it stay within its margin? Not shown is not a pass."""

    name: str
    shown: Literal["holds", "fails", "not shown"]
    mean: float
    lower: float
    margin: float
    n: int


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """Arrays of one shape: the mean difference, its one-sided lower bound, and whether the margin is shown to hold or to fail."""

    mean: Floats
    lower: Floats
    holds: Bools
    fails: Bools


def non_inferiority(differences: Floats, margin: Floats, floor: Floats, level: float = GUARD_LEVEL, least: int = 10) -> NonInferiority:
    """Paired non-inferiority: are mean differences above −margin?

    It holds when the one-sided lower bound at ``level`` is above −margin, and fails when the upper bound is below it. Fewer than
    ``least`` pairs are never enough. The level is exact for normal differences; where 5-10 % of the seeds collapse by 5 standard
    deviations a loss at the margin passes 11-15 % of the time.

    Args:
        differences: candidate − control, (…, pairs), signed so that larger is better.
        margin: the loss that would be tolerated, (…).
        floor: the least standard deviation believed, (…).
    """
    n = differences.shape[-1]
    mean = differences.mean(-1) if n else np.zeros(differences.shape[:-1])
    if n < 2:
        none = np.zeros(mean.shape, dtype=bool)
        return NonInferiority(mean, np.full(mean.shape, -math.inf), none, none)
    half = float(stats.t.ppf(1 - level, n - 1)) * np.maximum(differences.std(-1, ddof=1), floor) / math.sqrt(n)
    enough = n >= least
    return NonInferiority(mean, mean - half, (mean - half > -margin) & enough, (mean + half < -margin) & enough)


def check_guards(names: Sequence[str], differences: Floats, margin: Floats, floor: Floats, least: int = 10) -> tuple[Guard, ...]:
    """The guards of one trial, named: ``differences`` is (guards, pairs)."""
    found = non_inferiority(differences, margin, floor, least=least)
    n = differences.shape[-1]
    return tuple(
        Guard(name, "holds" if found.holds[i] else "fails" if found.fails[i] else "not shown", float(found.mean[i]), float(found.lower[i]),
              float(margin[i]), n)
        for i, name in enumerate(names)
    )  # fmt: skip


def beyond_hope(differences: Floats, margin: Floats, sd: Floats) -> Bools:
    """Are losses so far beyond their margins that no further pair can rescue the guards?

    Judged by the pooled seed noise: six standard errors at the first pair, four later. It ends a trial that would have failed
    in the end, so it costs no error.

    Args:
        differences: (…, pairs).
        margin, sd: (…).
    """
    k = differences.shape[-1]
    return np.asarray(differences.sum(-1) / k + (6.0 if k == 1 else 4.0) * sd / math.sqrt(k) < -margin)


def gain_shown(differences: Floats, floor: Floats, least: Floats, level: float = GUARD_LEVEL) -> Bools:
    """Are mean differences, (…, pairs), shown to be above 0 by a one-sided t-bound, and at least ``least``?"""
    found = non_inferiority(differences, np.zeros(differences.shape[:-1]), floor, level, least=2)
    return found.holds & (found.mean >= least)
