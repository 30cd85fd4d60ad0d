"""The rule that decides one trial, look by look: a pure function of its differences, shared by campaigns and simulations.

Three tests of H0: E D ≤ d are offered, each valid whenever one stops, each under its own assumption:

    t          differences are normal (the default; by far the most powerful at ten pairs)
    sign-flip  differences are symmetric about a point ≤ d; needs log₂(1/level) pairs at the least
    betting    scores lie in [0, 1], nothing else: also under rare collapse; a change of .2 takes about 25 pairs at level
               .05 and one of .05 about ninety, however quiet the noise

Giving up can only lose power, never promote, so it is judged by the pooled seed noise, from the first pair on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from stagezero.evidence.betting import log_betting_e_value
from stagezero.evidence.eprocess import critical_t, log_e_value, noise_floor, t_statistic
from stagezero.evidence.signflip import log_sign_flip_e_value

Test = Literal["t", "sign-flip", "betting"]

PATIENCE = 0.5
"""How much the pairs must speak against an effect worth having before a trial is given up, in units of log-likelihood.

Chosen by simulation (benchmarks/power.py): of 60 ideas, a tenth of them useful at four seed standard deviations, it keeps more
than 99 % of the useful ones at 2.13 pairs an idea; at two standard deviations it keeps about three quarters."""


class Look(StrEnum):
    CROSSED = "crossed"
    GO_ON = "go on"
    GIVE_UP = "give up"
    SPENT = "spent"


@dataclass(frozen=True, slots=True)
class Rule:
    """How one hypothesis is decided.

    Args:
        level: error it may spend; the threshold is 1/level.
        margin: d; the effect must exceed it.
        sd: pooled A/A standard deviation of the claimed score.
        items: items of each kind behind one score.
        worth: the effect worth having, in seed standard deviations.
        max_pairs: pairs it may have.
        test: which e-process.
    """

    level: float
    margin: float
    sd: float
    items: int
    worth: float
    max_pairs: int
    test: Test = "t"

    @property
    def noise(self) -> float:
        """Standard deviation of a difference, never below half a step of the score's grid."""
        return max(self.sd, 0.5 / self.items)

    @property
    def floor(self) -> float:
        return noise_floor(self.sd, self.items)

    def log_e(self, differences: Sequence[float]) -> float:
        """log of the e-process after these differences."""
        match self.test:
            case "t":
                return log_e_value(t_statistic(differences, self.margin, self.floor), len(differences))
            case "sign-flip":
                return log_sign_flip_e_value(differences, self.margin, self.noise)
            case "betting":
                return log_betting_e_value(differences, self.margin)

    def e_value(self, differences: Sequence[float]) -> float:
        """The e-process, capped at e^690 so that it can be written down."""
        return math.exp(min(self.log_e(differences), 690.0))

    def crosses(self, differences: Sequence[float]) -> bool:
        """Has the threshold been reached with the last of these differences?"""
        if self.test == "t":  # E grows with t: the critical value is computed once for each number of pairs
            return t_statistic(differences, self.margin, self.floor) >= critical_t(len(differences), 1.0 / self.level)
        return self.log_e(differences) >= -math.log(self.level)

    def worth_continuing(self, differences: Sequence[float]) -> bool:
        """Do the pairs leave room for an effect worth having?

        False once, under the pooled noise, no effect is more likely than one of ``worth`` standard deviations by a factor
        of e^PATIENCE: the futility half of Wald's sequential test.
        """
        k = len(differences)
        mean = (sum(differences) / k - self.margin) / self.noise
        return k * self.worth * (mean - self.worth / 2.0) >= -PATIENCE

    def look(self, differences: Sequence[float]) -> Look:
        """What to do after the last of these differences, for a trial that has not crossed before."""
        if self.crosses(differences):
            return Look.CROSSED
        if not self.worth_continuing(differences):
            return Look.GIVE_UP
        return Look.SPENT if len(differences) >= self.max_pairs else Look.GO_ON
