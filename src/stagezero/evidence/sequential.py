"""The rule that decides trials, look by look: one pure function over arrays (trials × pairs), used by campaigns and simulations.

Three tests of H0: E D ≤ d are offered, each valid whenever one stops, each under its own assumption:

    t          differences are normal (the default; by far the most powerful at ten pairs)
    sign-flip  differences are symmetric about a point ≤ d; needs log₂(1/level) pairs at the least
    betting    scores lie in [0, 1], nothing else: also under rare collapse; a change of .2 takes about 25 pairs at level
               .05 and one of .05 about ninety, however quiet the noise

Giving up can only lose power, never promote, so it is judged by the pooled seed noise, from the first pair on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stagezero.evidence.betting import log_betting_e_values
from stagezero.evidence.eprocess import Floats, log_e_value, noise_floor, reaches, t_statistics
from stagezero.evidence.signflip import log_sign_flip_e_values

Test = Literal["t", "sign-flip", "betting"]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

RULE_VERSION = 1
"""Of the rule, guards included. It rises with every change of what is decided, and ledgers name it."""

PATIENCE = 0.5
"""How much the pairs must speak against an effect worth having before a trial is given up, in units of log-likelihood.

Chosen by simulation (benchmarks/power.py): of 60 ideas, a tenth of them useful at four seed standard deviations, it keeps more
than 99 % of the useful ones at 2.13 pairs an idea; at two standard deviations it keeps about three quarters."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How hypotheses are decided.

    Args:
        level: error that each may spend; the threshold is 1/level.
        margin: d; the effect must exceed it.
        items: items of each kind behind one score.
        worth: the effect worth having, in seed standard deviations.
        test: which e-process.
    """

    level: float
    margin: float
    items: int
    worth: float
    test: Test = "t"


@dataclass(frozen=True, slots=True)
class Looks:
    """What the rule finds after every pair, shape (trials, pairs).

    ``crossed``: the threshold has been reached, with this pair or an earlier one. ``futile``: it has not, and the pairs leave no room
    for an effect worth having.
    """

    crossed: Bools
    futile: Bools

    def outcome(self) -> tuple[Bools, Ints]:
        """Which trials cross before they are given up, and the pair at which each ends: crossed, given up, or the last."""
        over = self.crossed | self.futile
        at = np.where(over.any(1), over.argmax(1), over.shape[1] - 1)
        return self.crossed[np.arange(len(at)), at], at + 1


def looks(differences: Floats, sd: Floats, rule: Rule, floor: Floats | None = None) -> Looks:
    """Look at trials after every pair.

    A trial is futile once, under the pooled noise, no effect is more likely than one of ``rule.worth`` standard deviations by a
    factor of e^PATIENCE: the futility half of Wald's sequential test.

    Args:
        differences: candidate − control, (trials, pairs).
        sd: (trials,), pooled A/A standard deviation of the claimed score, as each trial knows it.
        floor: (trials,), the least standard deviation that the t-test believes; ``noise_floor`` of ``sd`` when None.
    """
    pairs = np.arange(1, differences.shape[1] + 1)
    noise = noise_of(sd, rule.items)
    if rule.test == "t":
        t = t_statistics(differences, rule.margin, noise_floor(sd, rule.items) if floor is None else floor)
        reached = np.stack([reaches(t[:, k - 1], k, 1.0 / rule.level) for k in pairs.tolist()], axis=1)
    else:
        reached = _log_e_values(differences, noise, rule) >= -math.log(rule.level)
    crossed = np.logical_or.accumulate(reached, axis=1)
    mean = (differences.cumsum(1) / pairs - rule.margin) / noise[:, None]
    futile = pairs * rule.worth * (mean - rule.worth / 2.0) < -PATIENCE
    return Looks(crossed, futile & ~crossed)


def noise_of(sd: Floats, items: int) -> Floats:
    """Standard deviation of a difference, never below half a step of the score's grid."""
    return np.maximum(sd, 0.5 / items)


def trial_e_value(differences: Floats, sd: float, rule: Rule) -> float:
    """The e-process after the last of one trial's differences, capped at e^690 so that it can be written down."""
    row, known = np.atleast_2d(differences), np.array([sd])
    if rule.test == "t":
        t = float(t_statistics(row, rule.margin, noise_floor(known, rule.items))[0, -1])
        log_e = log_e_value(t, row.shape[1])
    else:
        log_e = float(_log_e_values(row, noise_of(known, rule.items), rule)[0, -1])
    return math.exp(min(log_e, 690.0))


def _log_e_values(differences: Floats, noise: Floats, rule: Rule) -> Floats:
    if rule.test == "sign-flip":
        return log_sign_flip_e_values(differences, rule.margin, noise)
    return log_betting_e_values(differences, rule.margin)
