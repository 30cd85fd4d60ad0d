"""E-processes and confidence sequences for the mean of bounded values, constructed by betting.

The only assumption is that every value lies between two known bounds. Normality and symmetry are
not required. To test "the mean is m", a gambler starts with a wealth of 1 and bets on each value.
A stake may depend on earlier values only. If the mean is m, the wealth is a nonnegative martingale,
so by Ville's inequality it ever reaches 1/α with probability at most α. The values of m that are
not rejected form a confidence sequence: it covers the mean at all sample sizes simultaneously.

The result also holds if a few replicates collapse, where the t-test has no guarantee. The cost is
wider intervals and less power: both depend on the effect relative to the whole range of the
values, not relative to the noise.

Source: Waudby-Smith & Ramdas 2023, "Estimating means of bounded random variables by betting"
(hedged capital with predictable plug-in stakes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stagezero.evidence.intervals import Estimate

Floats = NDArray[np.float64]
_MAX_LOST_SHARE = 0.75
"""Largest share of the wealth that one bet can lose; below 1, so the wealth stays positive."""


def _rescale_to_unit(values: Sequence[float] | Floats, low: float, high: float) -> Floats:
    """Map values from [low, high] to [0, 1]."""
    array = np.asarray(values, dtype=np.float64)
    if not high > low:
        raise ValueError(f"low, high: expected low < high, got {low} and {high}")
    if array.size and (array.min() < low or array.max() > high):
        raise ValueError(f"values: expected every value between {low} and {high}, got {array.min():g} to {array.max():g}")
    return np.asarray((array - low) / (high - low))


def _predictable_moments(x: Floats) -> tuple[Floats, Floats]:
    """Return the regularised mean and variance of all earlier values, along the last axis."""
    t = np.arange(1, x.shape[-1] + 1)
    mean = (0.5 + x.cumsum(-1)) / (t + 1)
    variance = (0.25 + ((x - mean) ** 2).cumsum(-1)) / (t + 1)
    first = np.ones((*x.shape[:-1], 1))
    return np.concatenate([0.5 * first, mean[..., :-1]], -1), np.concatenate([0.25 * first, variance[..., :-1]], -1)


def betting_interval(values: Sequence[float], level: float = 0.95, low: float = 0.0, high: float = 1.0, grid: int = 1000) -> Estimate:
    """Return the confidence sequence for a mean, evaluated at the last value.

    The interval is the intersection of the intervals at all sample sizes. It is valid under
    optional stopping.

    Args:
        values: in the order of observation, each in [low, high]. They are independent, or have a
            constant conditional mean.
        level: coverage probability, simultaneously over all sample sizes.
        low, high: bounds of the values.
        grid: number of grid steps over [low, high]. The limits have a precision of
            (high − low) / grid and are rounded outwards.

    Raises:
        ValueError: a value lies outside the bounds.
    """
    x = _rescale_to_unit(values, low, high)
    if not len(x):
        return Estimate((low + high) / 2, low, high, 0)
    alpha, t = 1.0 - level, np.arange(1, len(x) + 1)
    _, variance = _predictable_moments(x)
    stake = np.sqrt(2.0 * math.log(2.0 / alpha) / (variance * t * np.log(t + 1.0)))
    m = np.linspace(0.0, 1.0, grid + 1)[1:-1, None]
    with np.errstate(divide="ignore"):
        log_wealth_up = np.log1p(np.minimum(stake, _MAX_LOST_SHARE / m) * (x - m)).cumsum(axis=1)
        log_wealth_down = np.log1p(-np.minimum(stake, _MAX_LOST_SHARE / (1.0 - m)) * (x - m)).cumsum(axis=1)
    rejected = (np.maximum(log_wealth_up, log_wealth_down) + math.log(0.5) >= math.log(1.0 / alpha)).any(axis=1)
    # No value is below 0, so the mean can be 0 only if every value is 0. The same holds for 1.
    accepted = np.concatenate([[0.0] if x.max() == 0.0 else [], m[~rejected, 0], [1.0] if x.min() == 1.0 else []])
    span, mean = high - low, low + (high - low) * float(x.mean())
    if not len(accepted):  # every m is rejected, which has probability at most alpha
        return Estimate(mean, low, high, len(x))
    lower = low + span * max(0.0, float(accepted[0]) - 1.0 / grid)
    upper = low + span * min(1.0, float(accepted[-1]) + 1.0 / grid)
    return Estimate(mean, lower, upper, len(x))


def log_betting_e_values(differences: Floats, margin: float, low: float = -1.0, high: float = 1.0) -> Floats:
    """Return the log e-process for H0: mean ≤ ``margin``, after every pair.

    The e-process is the wealth of a gambler who bets that the mean exceeds the margin. The stakes
    follow the growth-rate-adaptive rule (aGRAPA), computed from earlier values. The e-process is
    valid for any values in [low, high].

    Args:
        differences: paired differences, shape (trials, pairs).
        margin: fixed in advance, strictly between ``low`` and ``high``.
        low, high: bounds of the differences.

    Returns:
        Shape (trials, pairs).

    Raises:
        ValueError: a difference or the margin lies outside the bounds.
    """
    if not low < margin < high:
        raise ValueError(f"margin: expected a number between {low} and {high}, got {margin}")
    x = _rescale_to_unit(differences, low, high)
    m = (margin - low) / (high - low)
    mean, variance = _predictable_moments(x)
    # The prior variance of 1/4 is far above the variance of paired differences, so it would make
    # the first stakes very small. The stake therefore has a lower limit. Any stake is valid that
    # depends on earlier values only.
    stake = np.clip((mean - m) / (variance + (mean - m) ** 2), 0.05 / m, _MAX_LOST_SHARE / m)
    return np.asarray(np.log1p(stake * (x - m)).cumsum(axis=-1))
