"""The sequential rule over many trials at once, in arrays; ``check`` holds it to the rule that campaigns use."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stagezero.evidence import Look, Rule, critical_t
from stagezero.evidence.sequential import PATIENCE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def t_values(differences: Floats, floor: Floats) -> Floats:
    """t-statistics after every pair, shape (trials, pairs), with the floor of each trial where the mean is positive."""
    k = np.arange(1, differences.shape[1] + 1)
    total, squares = differences.cumsum(1), (differences**2).cumsum(1)
    mean = total / k
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(np.maximum(squares - k * mean**2, 0.0) / (k - 1))
        spread = np.where(spread < 1e-9, 0.0, spread)
        spread = np.where(mean > 0, np.maximum(spread, floor[:, None]), spread)
        t = mean * np.sqrt(k) / spread
    t = np.where(np.abs(mean) < 1e-12, 0.0, t)
    t[:, 0] = 0.0
    return np.asarray(t)


def never(trials: int, pairs: int) -> Ints:
    return np.full(trials, pairs + 1, dtype=np.int64)


def first(true: NDArray[np.bool_]) -> Ints:
    """Pair at which each row first turns true; one past the end where it never does."""
    return np.asarray(np.where(true.any(1), true.argmax(1) + 1, true.shape[1] + 1), dtype=np.int64)


def sequential(
    differences: Floats, sd: Floats, items: int, level: float, worth: float, floor: bool = True
) -> tuple[NDArray[np.bool_], Ints]:
    """Which trials cross, and at which pair each ends (crossed, given up, or spent).

    Args:
        differences: (trials, pairs).
        sd: pooled A/A standard deviation that each trial knows.
        floor: False is a negative control.
    """
    pairs = differences.shape[1]
    least = np.maximum(0.5 * sd, 0.5 / items) if floor else np.zeros(len(sd))
    critical = np.array([critical_t(k, 1 / level) for k in range(1, pairs + 1)])
    t = t_values(differences, least)
    crossed_at = first(t >= critical)
    k = np.arange(1, pairs + 1)
    noise = np.maximum(sd, 0.5 / items)[:, None]
    given_up = k * worth * (differences.cumsum(1) / k / noise - worth / 2) < -PATIENCE
    given_up_at = first(given_up)
    crossed = (crossed_at <= pairs) & (crossed_at <= given_up_at)
    return crossed, np.minimum(np.minimum(crossed_at, given_up_at), pairs)


def pooled_from_five(rng: np.random.Generator, noise: Floats) -> Floats:
    """What a campaign knows of its noise: the root mean square of five A/A differences around a ring. ``noise``: (trials, 5, 2)."""
    same_items = noise[:, :, 1] - np.roll(noise[:, :, 0], -1, axis=1)
    return np.asarray(np.sqrt((same_items**2).mean(1)))


def check(differences: Floats, sd: Floats, items: int, level: float, worth: float) -> None:
    """Raise if the arrays ever disagree with the rule that decides real trials."""
    crossed, ended = sequential(differences, sd, items, level, worth)
    for row, one, yes, at in zip(differences.tolist(), sd, crossed, ended, strict=True):
        rule = Rule(level, 0.0, float(one), items, worth, differences.shape[1])
        looks = [rule.look(row[:k]) for k in range(1, len(row) + 1)]
        k = next(k for k, look in enumerate(looks, 1) if look is not Look.GO_ON)
        assert (k, looks[k - 1] is Look.CROSSED) == (at, yes), (row, one, k, at)


def binomial_interval(count: int, n: int) -> tuple[float, float]:
    """Exact 95 % interval."""
    from scipy.stats import binomtest

    found = binomtest(count, n).proportion_ci(0.95, "exact")
    return (0.0 if math.isnan(found.low) else float(found.low)), float(found.high)
