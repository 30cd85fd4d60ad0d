"""Version 1 of the stopping rule, for ledgers that name it. It must not change.

A ledger's decisions are recomputed by the version that its first entry names. Release 0.1 and the
releases before rule 2 used this version: a flat threshold on an e-process, one-sided.

Three e-processes test H0: E D ≤ d. Each is valid under optional stopping, given its assumption:

    t          The differences are normal. This is the default. It has by far the most power at
               ten pairs.
    sign-flip  The differences are symmetric about a point ≤ d. It needs at least log₂(1/level)
               pairs.
    betting    The scores lie in [0, 1]. It remains valid under rare collapse. At level .05 it
               needs about 25 pairs for a change of .2 and about 90 for a change of .05, however
               small the noise is.

Stopping for futility can only reduce the power; it never promotes. It therefore needs no error
control and uses the pooled seed noise from the first pair on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stagezero.evidence.betting import log_betting_e_values
from stagezero.evidence.eprocess import Floats, capped_e_value, difference_sd, log_e_value, reaches_threshold, sd_floor, t_statistics
from stagezero.evidence.signflip import log_sign_flip_e_values

Test1 = Literal["t", "sign-flip", "betting"]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

FUTILITY_LOG_RATIO = 0.5
"""Futility boundary, as a log-likelihood ratio.

A trial stops for futility when the ratio of "no effect beyond the margin" to "the smallest effect
of interest" exceeds this value. The value was chosen by simulation (benchmarks/power.py) with 60
ideas, a tenth of them useful. If useful ideas have an effect of four standard deviations of a
paired difference, more than 99 % of them are not stopped for futility, at 2.13 pairs per idea. At
two standard deviations about three quarters of them are not stopped."""


@dataclass(frozen=True, slots=True)
class StoppingRule1:
    """Parameters of the stopping rule.

    Args:
        level: error that each hypothesis may spend. The promotion threshold is 1/level.
        margin: d; H0 is E D ≤ d.
        items: number of items of each kind behind one score.
        smallest_effect: smallest effect of interest beyond the margin, in standard deviations of a
            paired difference. A value of 0 disables stopping for futility.
        test: the e-process.
    """

    level: float
    margin: float
    items: int
    smallest_effect: float
    test: Test1 = "t"


@dataclass(frozen=True, slots=True)
class InterimResults1:
    """Results of the interim analyses after every pair, as arrays of shape (trials, pairs).

    ``crossed`` is True from the pair at which the e-process first reaches the threshold. ``futile``
    is True where the futility boundary is crossed and the threshold is not yet reached.
    """

    crossed: Bools
    futile: Bools

    def outcome(self) -> tuple[Bools, Ints]:
        """Return two arrays of shape (trials,).

        The first is True where a trial reaches the threshold before it stops for futility. The
        second is the number of pairs at which the trial stops: at the threshold, for futility, or
        at the last pair.
        """
        stops = self.crossed | self.futile
        last = np.where(stops.any(1), stops.argmax(1), stops.shape[1] - 1)
        return self.crossed[np.arange(len(last)), last], last + 1


def interim_results_1(differences: Floats, sd: Floats, rule: StoppingRule1, floor: Floats | None = None) -> InterimResults1:
    """Analyse trials after every pair.

    The futility boundary is the lower boundary of Wald's sequential probability ratio test for
    normal differences with the pooled standard deviation. A trial crosses it if a mean of d is more
    likely than a mean of d + ``smallest_effect`` standard deviations by a factor above
    e^FUTILITY_LOG_RATIO.

    Args:
        differences: candidate − control, shape (trials, pairs).
        sd: pooled A/A standard deviation of the claimed score, as estimated in each trial, shape
            (trials,).
        rule: the parameters.
        floor: lower limit on the sample standard deviation of the t-test, shape (trials,). If
            None, ``sd_floor`` computes it from ``sd``.
    """
    pairs = np.arange(1, differences.shape[1] + 1)
    noise = difference_sd(sd, rule.items)
    if rule.test == "t":
        t = t_statistics(differences, rule.margin, sd_floor(sd, rule.items) if floor is None else floor)
        reached = np.stack([reaches_threshold(t[:, k - 1], k, 1.0 / rule.level) for k in pairs.tolist()], axis=1)
    else:
        reached = _log_e_values(differences, noise, rule) >= -math.log(rule.level)
    crossed = np.logical_or.accumulate(reached, axis=1)
    mean = (differences.cumsum(1) / pairs - rule.margin) / noise[:, None]
    log_ratio = pairs * rule.smallest_effect * (mean - rule.smallest_effect / 2.0)
    futile = log_ratio < -FUTILITY_LOG_RATIO
    return InterimResults1(crossed, futile & ~crossed)


def trial_e_value_1(differences: Floats, sd: float, rule: StoppingRule1) -> float:
    """Return the e-process of one trial after its last pair, capped at e^690.

    Args:
        differences: candidate − control, shape (pairs,) or (1, pairs).
        sd: pooled A/A standard deviation of the claimed score.
        rule: the parameters.
    """
    row, pooled = np.atleast_2d(differences), np.array([sd])
    if rule.test == "t":
        t = float(t_statistics(row, rule.margin, sd_floor(pooled, rule.items))[0, -1])
        log_e = log_e_value(t, row.shape[1])
    else:
        log_e = float(_log_e_values(row, difference_sd(pooled, rule.items), rule)[0, -1])
    return capped_e_value(log_e)


def _log_e_values(differences: Floats, noise: Floats, rule: StoppingRule1) -> Floats:
    """Return the log e-process of the sign-flip or the betting test, shape (trials, pairs)."""
    if rule.test == "sign-flip":
        return log_sign_flip_e_values(differences, rule.margin, noise)
    return log_betting_e_values(differences, rule.margin)
