"""What a trial can find, and what it costs: predicted before anything is built.

The predictions are simulated with the package's own stopping rule and guards, on normal noise, in
units of the standard deviation of a paired difference ("sd"). Every prediction uses the same random
numbers, so that predictions for different effects are comparable. The betting test depends on the
range, too: RANGE_SDS is assumed. With TRIALS trials the standard
error of a probability is at most .022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stagezero.evidence.guards import LOOK_LEVELS, looks_from, non_inferiority, planned_looks
from stagezero.evidence.sequential import StoppingRule, interim_results

Floats = NDArray[np.float64]
TRIALS = 500
LARGEST_EFFECT = 10.0
"""Largest effect that is searched for, in sd."""
RANGE_SDS = 25.0
"""Largest difference, in sd, that the betting test supposes: an sd is .04 of the score's range."""
_UNLIMITED_ITEMS = 10**9


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """The guards of a trial.

    Args:
        number: number of guards.
        first_look: number of pairs at the first look.
        margin_sds: margin of each guard, in standard deviations of its paired difference.
    """

    number: int
    first_look: int = 10
    margin_sds: float = 1.5


NO_GUARDS = GuardPlan(0)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a trial is expected to do under one true effect.

    ``found`` is the probability that the sequential test finds the candidate better; ``promoted``,
    that the guards hold, too. ``pairs`` is the expected number of pairs, those for the guards
    included.
    """

    effect: float
    found: float
    promoted: float
    pairs: float


@lru_cache(maxsize=64)
def predict(rule: StoppingRule, effect: float, guards: GuardPlan = NO_GUARDS, trials: int = TRIALS) -> Prediction:
    """Predict a trial with normal noise; the candidate harms nothing that is guarded.

    Args:
        rule: the stopping rule. Its margin and grid are ignored: effects count from the margin.
        effect: true effect beyond the margin, in sd.
        guards: the guards.
        trials: number of simulated trials.
    """
    rng, pairs = np.random.default_rng(7), rule.last_pair
    simulated = replace(rule, items=_UNLIMITED_ITEMS, margin=0.0, bounds=(-RANGE_SDS, RANGE_SDS))
    control = rng.standard_normal((trials, pairs)) / math.sqrt(2)
    d = rng.standard_normal((trials, pairs)) / math.sqrt(2) - control + effect
    d = d.clip(-RANGE_SDS, RANGE_SDS)
    first = control[:, : rule.calibration]
    sd = np.sqrt(((first - np.roll(first, 1, axis=1)) ** 2).mean(1))
    results = interim_results(d, sd, simulated)
    outcomes = results.outcomes()
    promoted, ended = outcomes.better.copy(), outcomes.pairs.copy()
    if guards.number:
        looks = planned_looks(min(guards.first_look, pairs), pairs)
        noise = rng.standard_normal((trials, guards.number, pairs))
        held: dict[int, NDArray[np.bool_]] = {}
        for i in np.flatnonzero(outcomes.better).tolist():
            promoted[i] = False
            for look in looks_from(int(outcomes.pairs[i]), looks, pairs):
                if look not in held:
                    held[look] = _all_hold(noise[:, :, :look], guards, LOOK_LEVELS[len(looks)])
                promoted[i], ended[i] = held[look][i], look
                if promoted[i]:
                    break
    return Prediction(effect, float(outcomes.better.mean()), float(promoted.mean()), float(ended.mean()))


def _all_hold(differences: Floats, guards: GuardPlan, level: float) -> NDArray[np.bool_]:
    """Return in which trials every guard holds, shape (trials,)."""
    shape = differences.shape[:-1]
    tests = non_inferiority(differences, np.full(shape, guards.margin_sds), np.full(shape, 0.5), level, min_pairs=2)
    return np.asarray(tests.holds.all(axis=1))


def smallest_effect(rule: StoppingRule, power: float = 0.8, guards: GuardPlan = NO_GUARDS) -> float | None:
    """Return the smallest effect that is found and promoted with a probability, in sd.

    The effect has a precision of about .05. None if even LARGEST_EFFECT is not found.

    Args:
        rule: the stopping rule.
        power: the probability.
        guards: the guards.
    """
    if predict(rule, LARGEST_EFFECT, guards).promoted < power:
        return None
    low, high = 0.05, LARGEST_EFFECT
    while high - low > 0.05:
        middle = math.sqrt(low * high)  # most effects of interest are small
        low, high = (middle, high) if predict(rule, middle, guards).promoted < power else (low, middle)
    return high
