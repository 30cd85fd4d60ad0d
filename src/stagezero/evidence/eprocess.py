"""The e-process that decides trials: a one-sided Bayes-factor t-test that may be looked at after every pair.

For paired differences D_1 … D_k with t-statistic t_k of D − d,

    E_k = ∫₀^∞ p(t_k | k−1, δ√k) / p(t_k | k−1, 0) · 2/(π(1+δ²)) dδ,        E_1 = 1,

a half-Cauchy(1) mixture over standardised effects under the right-Haar prior on scale (Pérez-Ortiz, Lardy, de Heide,
Grünwald 2022, "E-statistics, group invariance and anytime-valid testing"). For normal D with mean ≤ d the chance that
E ever reaches 1/α is at most α, whenever one stops. Promotion is by crossing that threshold only; the value at
a stopping time is never averaged, multiplied or reused. It says nothing of a mean under rare collapse.

The noncentral-t likelihood ratio equals exp(−kδ²/2) · E[exp(δ√k r χ_k)] with r = t/√(t²+k−1); both integrals are
taken on logarithmic axes, where the trapezoid rule converges geometrically, so nothing overflows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gammaln, logsumexp

Floats = NDArray[np.float64]
_INNER = 160
_NEGLIGIBLE = 40.0  # e^-40


def _root(excess: Callable[[Floats], Floats], far: Floats) -> Floats:
    """v between 0 and ``far`` where ``excess`` turns positive, by bisection."""
    near = np.zeros_like(far)
    for _ in range(40):  # fewer are too few for t of 1e5 and more
        middle = (near + far) / 2.0
        beyond = excess(middle) > 0
        near, far = np.where(beyond, near, middle), np.where(beyond, middle, far)
    return np.asarray(far)


def _log_chi_mgf(z: Floats, k: int) -> Floats:
    """log E[exp(z Y)] for Y ~ χ_k, for each z; stable for any sign and size of z."""
    # (z + √(z² + 4k)) / 2, in the form that does not cancel for very negative z.
    root = np.sqrt(z * z + 4.0 * k) + np.abs(z)
    mode = np.where(z < 0, 2.0 * k / root, root / 2.0)
    top = k * np.log(mode) - mode * mode / 2.0 + z * mode

    def drop(v: Floats) -> Floats:
        y = mode * np.exp(v)
        return np.asarray(top - (k * np.log(y) - y * y / 2.0 + z * y) - _NEGLIGIBLE)

    # The integrand over v = log(y / mode) falls away on both sides: find where it has become negligible.
    low = -_root(drop, np.full_like(mode, -(_NEGLIGIBLE + 1.5 * k) / k - 1.0))
    high = _root(drop, np.log1p((_NEGLIGIBLE + 2.0 * math.sqrt(k * _NEGLIGIBLE)) / mode) + 1.0)
    grid = np.linspace(0.0, 1.0, _INNER)
    v = -low[:, None] + (high + low)[:, None] * grid[None, :]
    y = mode[:, None] * np.exp(v)
    log_f = k * np.log(y) - y * y / 2.0 + z[:, None] * y
    step = (high + low) / (_INNER - 1)
    norm = (k / 2.0 - 1.0) * math.log(2.0) + float(gammaln(k / 2.0))
    return np.asarray(logsumexp(log_f, axis=1) + np.log(step) - norm)


@lru_cache(maxsize=4096)
def log_e_value(t: float, k: int) -> float:
    """log E_k for the t-statistic of ``k`` differences.

    Args:
        t: t-statistic; infinities are allowed.
        k: number of pairs, at least 1 (E_1 = 1 whatever was seen).
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1 pair, got {k}")
    if k == 1 or math.isnan(t):
        return 0.0
    nu = k - 1
    # 1 − r², written so that it keeps its digits for large |t|.
    rest = nu / (t * t + nu) if math.isfinite(t) else 0.0
    r = math.copysign(math.sqrt(1.0 - rest), t) if t != 0 else 0.0
    top = math.log(20.0 + 40.0 / math.sqrt(k * max(rest, 1e-24)))
    width = min(0.05, 0.25 / math.sqrt(k))
    u = np.arange(-18.0 - math.log(k), top, width)
    delta = np.exp(u)
    log_ratio = -k * delta * delta / 2.0 + _log_chi_mgf(delta * math.sqrt(k) * r, k)
    log_prior = math.log(2.0 / math.pi) - np.log1p(delta * delta)
    return float(logsumexp(log_ratio + log_prior + u) + math.log(width))


def t_statistics(differences: Floats, margin: float, floor: Floats) -> Floats:
    """t-statistics of D − d after every pair, with the standard deviation floored where the mean exceeds d.

    Scores lie on a grid: a few equal wins have no spread at all, and without the floor they would give E = ∞.

    Args:
        differences: (trials, pairs).
        margin: d, registered beforehand.
        floor: (trials,), the least standard deviation believed when the mean exceeds d; see ``noise_floor``.

    Returns:
        (trials, pairs); 0 after the first pair and where the mean equals d, infinite where there is no spread.
    """
    values = differences - margin
    found = np.zeros(values.shape)
    mean, squares = values[:, 0].copy(), np.zeros(len(values))  # Welford (1962): stable for nearly equal values
    for k in range(2, values.shape[1] + 1):
        step = values[:, k - 1] - mean
        mean += step / k
        squares += step * (values[:, k - 1] - mean)
        spread = np.sqrt(squares / (k - 1))
        spread = np.where(mean > 0, np.maximum(spread, floor), spread)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(spread < 1e-12, np.copysign(np.inf, mean), mean * math.sqrt(k) / spread)
        found[:, k - 1] = np.where(np.abs(mean) < 1e-12, 0.0, t)
    return found


def noise_floor(pooled_sd: Floats | float, items_per_kind: int) -> Floats:
    """max(½ · pooled A/A standard deviation, 1/2n), n the items of each kind behind one score."""
    return np.asarray(np.maximum(0.5 * pooled_sd, 0.5 / items_per_kind))


def e_value(differences: Sequence[float], margin: float, floor: float) -> float:
    """E_k of the differences seen so far; capped at e^690, so that it can be written down."""
    row = np.asarray([differences], dtype=np.float64)
    t = t_statistics(row, margin, np.array([floor]))[0, -1] if len(differences) > 1 else 0.0
    return math.exp(min(log_e_value(float(t), len(differences)), 690.0))


@lru_cache(maxsize=4096)
def critical_t(k: int, threshold: float) -> float:
    """The t-statistic at which E_k reaches ``threshold``; infinite where it cannot (k = 1)."""
    if k < 2:
        return math.inf
    goal = math.log(threshold)

    def gap(log_t: float) -> float:
        return log_e_value(math.exp(log_t), k) - goal

    if gap(math.log(1e7)) < 0:
        return math.inf
    return math.exp(float(brentq(gap, math.log(1e-3), math.log(1e7), xtol=1e-9)))


FEW = 8
"""Trials up to which evaluating E is cheaper than finding its critical value."""


def reaches(t: Floats, k: int, threshold: float) -> NDArray[np.bool_]:
    """Whether E_k of each t-statistic is at least ``threshold``. E grows with t, so many are compared with its critical value."""
    if len(t) > FEW:
        return np.asarray(t >= critical_t(k, threshold))
    return np.array([log_e_value(float(one), k) >= math.log(threshold) for one in t], dtype=bool)
