"""Betting on bounded values: no normality, no symmetry, only that every value lies between two known ends.

A gambler bets against "the mean is m" with stakes that depend on earlier values alone. While the claim is true the gambler's
wealth is a nonnegative martingale, so it ever reaches 1/α with probability at most α; the values of m that no wealth has
refuted form a confidence sequence, valid at every time at once (Waudby-Smith & Ramdas 2023, "Estimating means of bounded
random variables by betting", hedged capital with predictable plug-in stakes). This holds under rare collapse too, which
the t-test's statement does not; the price is width and power: they depend on the effect's share of the whole range, not of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stagezero.evidence.intervals import Estimate

Floats = NDArray[np.float64]
_MOST = 0.75
"""Share of the wealth that a stake may at most lose: below 1, so that one value never ruins the gambler."""


def _scaled(values: Sequence[float] | Floats, low: float, high: float) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if not high > low:
        raise ValueError(f"low, high: expected low < high, got {low} and {high}")
    if found.size and (found.min() < low or found.max() > high):
        raise ValueError(f"values: expected every value between {low} and {high}, got {found.min():g} to {found.max():g}")
    return np.asarray((found - low) / (high - low))


def _moments_before(x: Floats) -> tuple[Floats, Floats]:
    """Regularised mean and variance of the values before each one, along the last axis: what a stake may know."""
    t = np.arange(1, x.shape[-1] + 1)
    mean = (0.5 + x.cumsum(-1)) / (t + 1)
    variance = (0.25 + ((x - mean) ** 2).cumsum(-1)) / (t + 1)
    first = np.ones((*x.shape[:-1], 1))
    return np.concatenate([0.5 * first, mean[..., :-1]], -1), np.concatenate([0.25 * first, variance[..., :-1]], -1)


def betting_interval(values: Sequence[float], level: float = 0.95, low: float = 0.0, high: float = 1.0, grid: int = 1000) -> Estimate:
    """The confidence sequence for a mean, at the last value: valid even if one stopped there because of what was seen.

    Args:
        values: in the order they came, independent (or with a constant conditional mean), each in [low, high].
        level: coverage, simultaneously over all times.
        low, high: the ends that the values cannot leave.
        grid: candidate means, so the ends are known to (high − low) / grid; they are rounded outwards.

    Raises:
        ValueError: a value lies outside the ends.
    """
    x = _scaled(values, low, high)
    if not len(x):
        return Estimate((low + high) / 2, low, high, 0)
    alpha, t = 1.0 - level, np.arange(1, len(x) + 1)
    _, variance = _moments_before(x)
    stake = np.sqrt(2.0 * math.log(2.0 / alpha) / (variance * t * np.log(t + 1.0)))
    m = np.linspace(0.0, 1.0, grid + 1)[1:-1, None]
    with np.errstate(divide="ignore"):
        up = np.log1p(np.minimum(stake, _MOST / m) * (x - m)).cumsum(axis=1)
        down = np.log1p(-np.minimum(stake, _MOST / (1.0 - m)) * (x - m)).cumsum(axis=1)
    refuted = (np.maximum(up, down) + math.log(0.5) >= math.log(1.0 / alpha)).any(axis=1)
    # The ends themselves can only be refuted by a value that is not there.
    kept = np.concatenate([[0.0] if x.max() == 0.0 else [], m[~refuted, 0], [1.0] if x.min() == 1.0 else []])
    span, mean = high - low, low + (high - low) * float(x.mean())
    if not len(kept):  # wealth refuted everything: it can happen with probability at most alpha
        return Estimate(mean, mean, mean, len(x))
    lower = low + span * max(0.0, float(kept[0]) - 1.0 / grid)
    upper = low + span * min(1.0, float(kept[-1]) + 1.0 / grid)
    return Estimate(mean, lower, upper, len(x))


def log_betting_e_values(differences: Floats, margin: float, low: float = -1.0, high: float = 1.0) -> Floats:
    """log of the wealth of a gambler who bets that the mean exceeds ``margin``, after every pair: an e-process for H0: mean ≤ margin.

    Stakes follow the growth-rate-adaptive rule (aGRAPA) on the values before. Valid for any values in [low, high].

    Args:
        differences: (trials, pairs).

    Returns:
        (trials, pairs).

    Raises:
        ValueError: a value lies outside the ends, or the margin does.
    """
    if not low < margin < high:
        raise ValueError(f"margin: expected a number between {low} and {high}, got {margin}")
    x = _scaled(differences, low, high)
    m = (margin - low) / (high - low)
    mean, variance = _moments_before(x)
    # The prior variance of ¼ would keep the first stakes tiny: paired differences are far quieter than that, and any
    # stake is valid that looks at the past alone.
    stake = np.clip((mean - m) / (variance + (mean - m) ** 2), 0.05 / m, _MOST / m)
    return np.asarray(np.log1p(stake * (x - m)).cumsum(axis=-1))
