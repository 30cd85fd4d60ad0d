"""The exact sequential boundary of a t-test that is evaluated after every pair.

A trial has a registered maximum of K pairs and a level α. After pair k it rejects "the mean is m"
if the t-statistic of D − m exceeds a critical value c_k (two-sided: if its absolute value does).
The critical values are chosen so that the probability of a first rejection at pair k is exactly the
level that is spent there, if the differences are independent and normal with mean m. There is no
rejection before FIRST_PAIR. Up to pair k the spent level is

    (1 − r) · α · ((k − 3) / (K − 3))^SPENDING_EXPONENT,        k = 4 … K.

The share r of the level is reserved for going on after the maximum: r·α/2^j is spent in the same
way over the j-th doubling of K. All shares together are at most α, however often the trial is
extended. A lower limit on the standard deviation, or stopping for another reason, only lowers the
error.

Numerical method. With mean m, the direction of (D_1 − m, …, D_k − m) is uniform on a sphere,
whatever the variance. Its angle θ_k to the axis (0, …, 0) → (1, …, 1) determines the t-statistic:
t_k = √(k−1)·tan θ_k, with density proportional to cos^(k−2) θ. Let q_k(θ) be the probability that
the trial did not reject before pair k, given θ_k = θ. The position of the last difference is again
one coordinate of a uniform direction, so

    q_{k+1}(θ) = ∫ q_k(θ_k(θ, φ)) · 1[no rejection at θ_k] · cos^(k−2) φ dφ / ∫ cos^(k−2) φ dφ

over φ in (−π/2, π/2). The angles φ without a rejection form one interval, whose ends are the roots
of a quadratic equation. Gauss–Legendre quadrature integrates over this interval; a cubic spline
interpolates q_k on a grid that is refined where q_k falls to 0. The critical value solves
∫_{c_k} q_k(θ) f_k(θ) dθ = spent level. With the default numbers of nodes the levels are met with a
relative error below 10⁻³, and the critical values with one below 10⁻⁴
(tests/evidence/test_boundary.py compares them with much finer grids and with simulation). They are
rounded up to five significant digits, so that they do not depend on the machine.

Sources: spending of the level, Lan & DeMets 1983; sequential t-tests by invariance, Rushton 1950;
the recursion over angles is derived here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import gammaln, stdtrit

Floats = NDArray[np.float64]
FIRST_PAIR = 4
"""Number of pairs before which a trial does not decide."""
SPENDING_EXPONENT = 0.55
"""Exponent of the spending function. Smaller values spend more of the level on the first pairs:
large effects are then found sooner, and small ones less often. In two-sided comparisons of up to 25
pairs, 0.4 / 0.55 / 0.8 / 1 find half a standard deviation in .43 / .45 / .48 / .50 of the trials,
and need 11.3 / 11.4 / 11.5 / 11.7 pairs at one standard deviation."""
MIN_LEVEL, MAX_LEVEL = 1e-15, 0.5
"""Limits of a level. Below the least one, nothing is decided: numbers have sixteen digits."""
NODES, QUADRATURE_NODES = 400, 48
"""Numbers of grid points of θ, and of quadrature points of φ."""
_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Spending:
    """How a trial spends its level over its pairs.

    Args:
        level: α, the error that the trial may spend, over all its extensions together.
        max_pairs: K, the registered maximum of pairs, at least FIRST_PAIR.
        two_sided: True for two-sided tests, whose level is divided equally over both sides.
        reserve: r, the share of the level for extensions, from 0 to below 1. Without a reserve the
            trial cannot be extended.

    Raises:
        ValueError: a number is out of range.
    """

    level: float
    max_pairs: int
    two_sided: bool = False
    reserve: float = 0.0

    def __post_init__(self) -> None:
        whole = isinstance(self.max_pairs, int) and self.max_pairs >= FIRST_PAIR
        if not 0 < self.level <= MAX_LEVEL or not whole or not 0 <= self.reserve < 1:
            raise ValueError(
                f"level, max_pairs, reserve: expected 0 < level ≤ {MAX_LEVEL}, at least {FIRST_PAIR} pairs and 0 ≤ reserve < 1, got "
                f"{self.level}, {self.max_pairs} and {self.reserve}"
            )

    def increments(self, pairs: int) -> Floats:
        """Return the level that is spent at each pair from FIRST_PAIR to ``pairs``.

        The values are 0 after the maximum if there is no reserve.
        """
        start, end, share = FIRST_PAIR - 1, self.max_pairs, 1.0 - self.reserve
        parts, last_share = list[Floats](), self.reserve
        while start < pairs:
            spent = self.level * share * (np.arange(end - start + 1) / (end - start)) ** SPENDING_EXPONENT
            parts.append(np.diff(spent))
            start, end, share, last_share = end, 2 * end, last_share / 2, last_share / 2
        return np.concatenate([[], *parts])[: max(0, pairs - FIRST_PAIR + 1)]


def _log_norm(k: int) -> float:
    """Return log of 1 / ∫ cos^(k−2) over (−π/2, π/2)."""
    return float(gammaln(k / 2) - gammaln((k - 1) / 2)) - 0.5 * math.log(math.pi)


class _Recursion:
    """q_k on a grid of angles, for one pair after another.

    Args:
        two_sided: True if the trial rejects on both sides; θ is then an absolute value.
        nodes: number of grid points.
        quadrature_nodes: number of quadrature points.
    """

    def __init__(self, two_sided: bool, nodes: int, quadrature_nodes: int) -> None:
        self.two_sided, self.nodes = two_sided, nodes
        self.x, self.weights = np.polynomial.legendre.leggauss(quadrature_nodes)
        self.lowest = 0.0 if two_sided else -math.pi / 2
        self.k, self.end = FIRST_PAIR, math.pi / 2
        # The grid is uniform in u, with θ = end − (end − lowest)·u². It is dense near the end,
        # where q_k falls to 0 like a square root and the levels are spent.
        self.u = np.linspace(0.0, 1.0, nodes)
        self.q = np.ones(nodes)

    @property
    def theta(self) -> Floats:
        """The grid, from the largest angle that an undecided trial can have to the smallest."""
        return np.asarray(self.end - (self.end - self.lowest) * self.u**2)

    def critical_angle(self, level: float) -> float:
        """Return the angle above which a probability of ``level`` lies, counted from q_k."""
        theta = self.theta
        density = np.exp(_log_norm(self.k) + (self.k - 2) * np.log(np.maximum(np.cos(theta), 1e-300))) * self.q
        tail = CubicSpline(self.u, density * 2.0 * self.u * (self.end - self.lowest)).antiderivative()
        target = level / 2 if self.two_sided else level
        low, high = 0.0, 1.0
        if float(tail(1.0)) <= target:
            return self.lowest
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if float(tail(middle)) < target else (low, middle)
        return float(self.end - (self.end - self.lowest) * high**2)

    def advance(self, critical: float) -> None:
        """Go on to the next pair, after a trial that rejects above the angle ``critical``."""
        k, old = self.k, CubicSpline(self.u, self.q)
        old_end, b = self.end, math.sqrt(k) * math.sin(critical)
        # Above this angle the trial must have rejected at pair k: s² > 1 + b², s = √(k+1) sin θ.
        self.end = math.asin(min(1.0, math.sqrt((1 + b * b) / (k + 1)))) if b > 0 else math.pi / 2
        theta = self.theta
        s, radius = math.sqrt(k + 1) * np.sin(theta), np.cos(theta) * math.sqrt(k / (k + 1))
        root = b * np.sqrt(np.maximum(1 + b * b - s * s, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = (((s + sign * root) / (1 + b * b) - s / (k + 1)) / radius for sign in (-1.0, 1.0))
        if not self.two_sided:  # the other roots belong to the lower boundary of a two-sided test
            low, high = np.where(s <= -1, -1.0, low), np.where(s <= 1, 1.0, high)
        low, high = (np.arcsin(np.clip(np.nan_to_num(v), -1.0, 1.0)) for v in (low, high))
        half = (high - low) / 2
        phi = low[:, None] + half[:, None] * (1 + self.x)
        v = s[:, None] / (k + 1) + radius[:, None] * np.sin(phi)
        before = np.arcsin(np.clip((s[:, None] - v) / np.sqrt(np.maximum(1 - v * v, 1e-300) * k), -1.0, 1.0))
        if self.two_sided:
            before = np.abs(before)
        u = np.sqrt(np.clip((old_end - np.minimum(before, critical)) / (old_end - self.lowest), 0.0, 1.0))
        log_weight = (k - 2) * np.log(np.maximum(np.cos(phi), 1e-300))
        self.q = np.clip(math.exp(_log_norm(k)) * half * ((np.exp(log_weight) * old(u)) @ self.weights), 0.0, 1.0)
        self.k = k + 1


def _round_up(value: float) -> float:
    """Round a number up to _DIGITS significant digits."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - _DIGITS + 1)
    return math.ceil(value / unit - 1e-6) * unit


@lru_cache(maxsize=256)
def critical_values(spending: Spending, pairs: int, nodes: int = NODES, quadrature_nodes: int = QUADRATURE_NODES) -> tuple[float, ...]:
    """Return the critical value of the t-statistic after each of ``pairs`` pairs.

    A value is infinite before FIRST_PAIR, and where no level is spent.

    Args:
        spending: the level, and how it is spent.
        pairs: number of pairs; it may exceed the registered maximum.
        nodes, quadrature_nodes: sizes of the grids.
    """
    if spending.level < MIN_LEVEL:
        return (math.inf,) * pairs
    recursion = _Recursion(spending.two_sided, nodes, quadrature_nodes)
    values = [math.inf] * min(pairs, FIRST_PAIR - 1)
    for k, level in enumerate(spending.increments(pairs).tolist(), FIRST_PAIR):
        if level <= 0:
            values += [math.inf] * (pairs - k + 1)
            break
        if k == FIRST_PAIR:
            c = -float(stdtrit(k - 1, level / 2 if spending.two_sided else level))
        else:
            c = math.sqrt(k - 1) * math.tan(recursion.critical_angle(level))
        c = _round_up(c)
        values.append(c)
        if k < pairs:
            recursion.advance(math.atan(c / math.sqrt(k - 1)))
    return tuple(values)


def pairs_until_width(spending: Spending, half_width: float, sd: float, pairs: int, limit: int) -> int | None:
    """Return after how many more pairs the interval's half-width is at most ``half_width``.

    Args:
        spending: the level, and how it is spent.
        half_width: the wanted half-width of the confidence interval, in score.
        sd: standard deviation of a paired difference.
        pairs: number of pairs so far.
        limit: largest total number of pairs.

    Returns:
        None if ``limit`` pairs are not enough.
    """
    critical: Sequence[float] = critical_values(spending, limit)
    return next((k - pairs for k in range(pairs + 1, limit + 1) if critical[k - 1] * sd / math.sqrt(k) <= half_width), None)
