"""The default e-process of a trial: a one-sided Bayes-factor t-test for paired differences.

The null hypothesis is H0: E D ≤ d. Let D_1 … D_k be paired differences and t_k the t-statistic of
D − d. Then

    E_k = ∫₀^∞ p(t_k | k−1, δ√k) / p(t_k | k−1, 0) · 2/(π(1+δ²)) dδ,        E_1 = 1,

where p(t | ν, μ) is the density of the noncentral t distribution. This is a half-Cauchy(1) mixture
over standardised effects δ, under the right-Haar prior on the scale. If the D_i are independent and
normal with mean at most d, then E ever reaches 1/α with probability at most α (Ville's inequality).
The test is therefore valid under optional stopping: it may be evaluated after every pair. A trial
may only test whether E reaches the threshold. It must not average, multiply or reuse the value of E
at a stopping time. The test gives no guarantee about the mean under rare collapse.

The noncentral-t likelihood ratio equals exp(−kδ²/2) · E[exp(δ√k r χ_k)] with r = t/√(t²+k−1). Both
integrals are computed on logarithmic axes. There the trapezoid rule converges geometrically and
nothing overflows.

Source: Pérez-Ortiz, Lardy, de Heide, Grünwald 2022, "E-statistics, group invariance and
anytime-valid testing".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

Floats = NDArray[np.float64]
_CHI_GRID_POINTS = 112
_NEGLIGIBLE_LOG_DROP = 40.0
"""Distance below the maximum of a log integrand at which the integrand is negligible: e^-40."""
MAX_DIRECT_EVALUATIONS = 8
"""Largest number of trials for which evaluating E is faster than computing its critical value."""
_MAX_ABS_T = 1e9
"""Limit on t-statistics, which are infinite where there is no spread."""
_MAX_LOG_E = 690.0
"""Cap on log E. e^690 is still a finite float, so a capped e-value can be stored."""


def _log_chi_mgf(z: Floats, k: int) -> Floats:
    """Return log E[exp(z Y)] for Y ~ χ_k and each z. Stable for any sign and size of z."""
    # The mode m = (z + √(z² + 4k)) / 2, in a form without cancellation for very negative z.
    root = np.sqrt(z * z + 4.0 * k) + np.abs(z)
    mode = np.where(z < 0, 2.0 * k / root, root / 2.0)
    top = k * np.log(mode) - mode * mode / 2.0 + z * mode
    # Integrate over v = log(y / m). Since z m = m² − k, the log integrand lies below its maximum by
    # m²(e^v − 1)²/2 + k(e^v − 1 − v). Both terms bound the range in which it is not negligible.
    d = _NEGLIGIBLE_LOG_DROP
    high = np.sqrt(2.0 * d / (mode * mode + k))
    by_k = d / (3.0 * k) + math.sqrt((d / (3.0 * k)) ** 2 + 2.0 * d / k)
    low = np.minimum(by_k, -np.log1p(-np.minimum(math.sqrt(2.0 * d) / mode, 1.0 - 1e-12)))
    near = np.zeros_like(mode)
    for _ in range(10):
        middle = (near + low) / 2.0
        fall = np.expm1(-middle)
        beyond = mode * mode * fall * fall / 2.0 + k * (fall + middle) > d
        near, low = np.where(beyond, near, middle), np.where(beyond, middle, low)
    grid = np.linspace(0.0, 1.0, _CHI_GRID_POINTS)
    v = -low[:, None] + (high + low)[:, None] * grid
    rise = np.expm1(v)
    drop = (mode * mode)[:, None] * rise * rise / 2.0 + k * (rise - v)
    norm = (k / 2.0 - 1.0) * math.log(2.0) + float(gammaln(k / 2.0))
    return np.asarray(top + np.log(np.exp(-drop).sum(axis=1) * (high + low) / (_CHI_GRID_POINTS - 1)) - norm)


@lru_cache(maxsize=4096)
def log_e_value(t: float, k: int) -> float:
    """Return log E_k for the t-statistic of ``k`` differences.

    Args:
        t: t-statistic; may be infinite.
        k: number of pairs, at least 1. E_1 = 1 for any difference.

    Raises:
        ValueError: ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1 pair, got {k}")
    if k == 1 or math.isnan(t):
        return 0.0
    nu = k - 1
    t = max(-_MAX_ABS_T, min(_MAX_ABS_T, t))
    # 1 − r², in a form without cancellation for large |t|.
    one_minus_r2 = nu / (t * t + nu)
    r = math.copysign(math.sqrt(1.0 - one_minus_r2), t) if t != 0 else 0.0
    top = math.log(20.0 + 40.0 / math.sqrt(k * max(one_minus_r2, 1e-24)))
    # The integrand is narrowest where δ is near t/√k. There its standard deviation in u is about
    # √(1/t² + 1/(2k)), from the errors of the mean and of the standard deviation.
    width = min(0.1, 0.5 * math.sqrt(1.0 / max(1.0, t * t) + 0.5 / k))
    u = np.arange(-18.0 - math.log(k), top, width)
    delta = np.exp(u)
    log_ratio = -k * delta * delta / 2.0 + _log_chi_mgf(delta * math.sqrt(k) * r, k)
    log_prior = math.log(2.0 / math.pi) - np.log1p(delta * delta)
    return float(logsumexp(log_ratio + log_prior + u) + math.log(width))


def t_statistics(differences: Floats, margin: float, floor: Floats) -> Floats:
    """Return the t-statistics of D − d after every pair.

    Where the mean exceeds d, the sample standard deviation has a lower limit. Scores lie on a grid,
    so a few equal gains have no spread. Without the limit they would give E = ∞.

    Args:
        differences: paired differences, shape (trials, pairs).
        margin: d, registered in advance.
        floor: the lower limit, shape (trials,); see ``sd_floor``.

    Returns:
        Shape (trials, pairs). The value is 0 after the first pair and where the mean equals d, and
        infinite where there is no spread.
    """
    values = differences - margin
    statistics = np.zeros(values.shape)
    mean, squares = values[:, 0].copy(), np.zeros(len(values))  # Welford (1962): stable for nearly equal values
    for k in range(2, values.shape[1] + 1):
        step = values[:, k - 1] - mean
        mean += step / k
        squares += step * (values[:, k - 1] - mean)
        sd = np.sqrt(squares / (k - 1))
        sd = np.where(mean > 0, np.maximum(sd, floor), sd)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(sd < 1e-12, np.copysign(np.inf, mean), mean * math.sqrt(k) / sd)
        statistics[:, k - 1] = np.where(np.abs(mean) < 1e-12, 0.0, t)
    return statistics


def sd_floor(pooled_sd: Floats | float, items_per_kind: int) -> Floats:
    """Return the lower limit on a sample standard deviation: max(½ · pooled A/A sd, 1/(2n)).

    Args:
        pooled_sd: pooled standard deviation of A/A differences.
        items_per_kind: n, the number of items of each kind behind one score.
    """
    return np.asarray(np.maximum(0.5 * pooled_sd, 0.5 / items_per_kind))


def difference_sd(sd: Floats, items: int) -> Floats:
    """Return the standard deviation of a difference, at least half a step of the score's grid.

    Args:
        sd: pooled A/A standard deviation.
        items: number of items of each kind behind one score.
    """
    return np.maximum(sd, 0.5 / items)


def capped_e_value(log_e: float) -> float:
    """Return E from log E, capped at e^690 so that it can be stored."""
    return math.exp(min(log_e, _MAX_LOG_E))


def e_value(differences: Sequence[float], margin: float, floor: float) -> float:
    """Return E_k of the paired differences of one trial, capped at e^690.

    Args:
        differences: in the order of their replicates.
        margin: d, registered in advance.
        floor: lower limit on the sample standard deviation; see ``sd_floor``.
    """
    row = np.asarray([differences], dtype=np.float64)
    t = t_statistics(row, margin, np.array([floor]))[0, -1] if len(differences) > 1 else 0.0
    return capped_e_value(log_e_value(float(t), len(differences)))


@lru_cache(maxsize=4096)
def critical_t(k: int, threshold: float) -> float:
    """Return the t-statistic at which E_k reaches ``threshold``.

    It is infinite if E_k cannot reach the threshold, as for k = 1.
    """
    if k < 2:
        return math.inf
    goal = math.log(threshold)

    def gap(log_t: float) -> float:
        return log_e_value(math.exp(log_t), k) - goal

    if gap(math.log(1e7)) < 0:
        return math.inf
    from scipy.optimize import brentq  # slow to import, and most processes do not call this

    return math.exp(float(brentq(gap, math.log(1e-3), math.log(1e7), xtol=1e-9)))


def reaches_threshold(t: Floats, k: int, threshold: float) -> NDArray[np.bool_]:
    """Return for each t-statistic whether E_k is at least ``threshold``.

    E increases with t. For many trials, t is therefore compared with one critical value.

    Args:
        t: t-statistics of ``k`` differences, shape (trials,).
        k: number of pairs.
        threshold: 1/α.
    """
    if len(t) > MAX_DIRECT_EVALUATIONS:
        return np.asarray(t >= critical_t(k, threshold))
    return np.array([log_e_value(float(one), k) >= math.log(threshold) for one in t], dtype=bool)
