"""The stopping rule of a trial, evaluated after every pair (rule 2).

The rule is one set of pure functions over arrays of shape (trials, pairs). Campaigns, ``compare``,
simulations and benchmarks all call these functions; no second copy of the rule may exist.
``rule_1.py`` has the version that older ledgers name.

The question is two-sided ("which is better?") or one-sided ("is the candidate better?"). A trial
answers

    better   The mean difference exceeds the margin.
    worse    The mean difference is below −margin (two-sided questions).
    same     The mean difference lies within ±same_within, if such a width was registered.

at the first pair after which the confidence interval excludes everything else. The interval is the
one that the decision's own test inverts to: the set of all means that the sequential test does not
reject. So an answer and its interval cannot contradict each other, and both hold however often one
looks.

These tests can be chosen:

    auto       The exact sequential t-test (``boundary.py``), with stricter tests that must agree
               where calibration or the range speak against normal differences
               (``assumptions.py``). This is the default.
    t          The exact sequential t-test. It supposes normal differences.
    e-value    The e-value of a t-test against the threshold 1/level. It supposes normal
               differences, has less power, and needs no maximum of pairs.
    sign-flip  The differences are symmetric about a point. It needs at least log₂(1/level) pairs.
    betting    The scores lie in [0, 1]. It remains valid under rare collapse. At level .05 it
               needs about 25 pairs for a change of .2 and about 90 for a change of .05, however
               small the noise is.

Stopping for futility can only reduce the power; it never decides. It therefore needs no error
control ("non-binding": a trial may go on after it). It uses the noise of the calibration runs and
of the pairs together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from stagezero.evidence.assumptions import UNCALIBRATED_PAIRS, Cushion, Cushions, has_long_lower_tail, uncalibrated
from stagezero.evidence.betting import log_betting_e_values
from stagezero.evidence.boundary import FIRST_PAIR, Spending, critical_values
from stagezero.evidence.eprocess import Floats, capped_e_value, critical_t, difference_sd, log_e_value
from stagezero.evidence.intervals import Estimate
from stagezero.evidence.signflip import log_sign_flip_e_values

Test = Literal["auto", "t", "e-value", "sign-flip", "betting"]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

NO_CUSHIONS = Cushions()
RULE_VERSION = 2
"""Version of the stopping rule and the guards. It increases with every change of what they decide.
Ledgers name it."""
SD_FLOOR_SHARE = 0.2
"""Lower limit on a sample standard deviation, as a share of the A/A standard deviation. It lowers
the error, and larger shares cost power: with .5, a comparison needs .15 pairs more at an effect of
one standard deviation."""
MIN_CONDITIONAL_POWER = 0.05
"""A trial stops for futility if its chance of an answer by the maximum falls below this."""
_GRID = 2001
"""Number of means at which the sign-flip and betting tests are inverted, over the whole range."""


@dataclass(frozen=True)
class StoppingRule:
    """Parameters of the stopping rule.

    Args:
        level: error that the trial may spend: the probability of a wrong answer.
        max_pairs: registered maximum of pairs.
        items: number of items of each kind behind one score.
        margin: an effect must exceed it.
        worth: smallest effect of interest beyond the margin, in standard deviations of a paired
            difference. A value of 0 disables stopping for futility.
        patience: log-likelihood ratio against the smallest effect of interest at which a trial
            stops for futility.
        test: the test.
        two_sided: True for the question "which is better?".
        reserve: share of the level for extensions beyond the maximum; see ``Spending``.
        same_within: half-width of the range of means that count as the same; None if the trial does
            not ask.
        calibration: number of A/A differences behind the A/A standard deviation.
        cushions: the tests that must agree with the exact boundary; used by "auto".
        bounds: smallest and largest possible difference.
        horizon: maximum of pairs after extensions; None if there are none.
    """

    level: float
    max_pairs: int
    items: int
    margin: float = 0.0
    worth: float = 1.0
    patience: float = 1.5
    test: Test = "auto"
    two_sided: bool = False
    reserve: float = 0.0
    same_within: float | None = None
    calibration: int = 10
    cushions: Cushions = NO_CUSHIONS
    bounds: tuple[float, float] = (-1.0, 1.0)
    horizon: int | None = None

    @cached_property
    def spending(self) -> Spending:
        """How the exact test spends the level."""
        return Spending(self.level, self.max_pairs, self.two_sided, self.reserve)

    @property
    def threshold(self) -> float:
        """The threshold of an e-value: 1/level, or 2/level for each side of a two-sided test."""
        return (2.0 if self.two_sided else 1.0) / self.level

    @property
    def last_pair(self) -> int:
        """The largest number of pairs, extensions included."""
        return self.horizon or self.max_pairs


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How trials end: arrays of shape (trials,).

    ``better``, ``worse`` and ``same`` are True for trials with that answer. ``pairs`` is the number
    of pairs at which a trial stops: with an answer, for futility, or at the last pair.
    """

    better: Bools
    worse: Bools
    same: Bools
    pairs: Ints


@dataclass(frozen=True, slots=True)
class InterimResults:
    """Results of the interim analyses after every pair, as arrays of shape (trials, pairs).

    ``better``, ``worse`` and ``same`` are True from the pair at which that answer is established.
    ``futile`` is True where a trial without an answer should stop.
    """

    better: Bools
    worse: Bools
    same: Bools
    futile: Bools

    def outcomes(self) -> Outcomes:
        """Return how each trial ends, at its first answer, for futility, or at the last pair."""
        stops = self.better | self.worse | self.same | self.futile
        last = np.where(stops.any(1), stops.argmax(1), stops.shape[1] - 1)
        rows = np.arange(len(last))
        better, worse = self.better[rows, last], self.worse[rows, last]
        return Outcomes(better, worse, self.same[rows, last] & ~better & ~worse, last + 1)


def interim_results(differences: Floats, sd: Floats, rule: StoppingRule) -> InterimResults:
    """Analyse trials after every pair.

    Args:
        differences: candidate − control, shape (trials, pairs).
        sd: standard deviation of A/A differences of the claimed score, as estimated in each trial,
            shape (trials,).
        rule: the parameters.
    """
    mean, sample_sd = running_moments(differences)
    better = _exceeds(differences, mean, sample_sd, sd, rule, rule.margin, rule.cushions.better)
    never = np.zeros(differences.shape, dtype=bool)
    worse = _exceeds(-differences, -mean, sample_sd, sd, rule, rule.margin, rule.cushions.worse) if rule.two_sided else never
    same = never
    if rule.same_within is not None:
        above = _exceeds(differences, mean, sample_sd, sd, rule, -rule.same_within, rule.cushions.better)
        same = above & _exceeds(-differences, -mean, sample_sd, sd, rule, -rule.same_within, rule.cushions.worse)
    answered = np.logical_or.accumulate(better | worse | same, axis=1)
    return InterimResults(better, worse, same, _futile(mean, sample_sd, sd, rule) & ~answered)


def running_moments(values: Floats) -> tuple[Floats, Floats]:
    """Return the mean and the sample standard deviation after every value, along the last axis.

    The standard deviation of one value is 0.
    """
    means, sds = np.zeros(values.shape), np.zeros(values.shape)
    mean, squares = np.zeros(len(values)), np.zeros(len(values))  # Welford (1962): stable for nearly equal values
    for k in range(1, values.shape[1] + 1):
        step = values[:, k - 1] - mean
        mean = mean + step / k
        squares = squares + step * (values[:, k - 1] - mean)
        means[:, k - 1], sds[:, k - 1] = mean, np.sqrt(squares / max(1, k - 1))
    return means, sds


def confidence_interval(differences: Floats, sd: float, rule: StoppingRule) -> Estimate:
    """Return the mean difference with the interval that the rule's test inverts to.

    It holds the means that the test does not reject at the last look, and excludes what an earlier
    look has answered. Its coverage is at least 1 − level, wherever a trial stops. It does not leave
    the bounds of a difference; the upper end is infinite for a one-sided question.

    Args:
        differences: candidate − control, shape (pairs,), at least one.
        sd: standard deviation of A/A differences.
        rule: the parameters.
    """
    row, pooled, both = differences[None, :], np.array([sd]), rule.two_sided or rule.same_within is not None
    mean, sample_sd = running_moments(row)
    low = _lower_limit(row, mean, sample_sd, pooled, rule, rule.cushions.better)
    high = -_lower_limit(-row, -mean, sample_sd, pooled, rule, rule.cushions.worse) if both else math.inf
    return Estimate(float(mean[0, -1]), max(low, rule.bounds[0]), min(high, rule.bounds[1]) if high < math.inf else high, len(differences))


def effect_interval(differences: Sequence[float], max_pairs: int, floor: float, level: float = 0.05) -> Estimate:
    """Return a mean difference with a two-sided interval that holds wherever a trial stops.

    It is the interval of the exact sequential t-test with the given level. With fewer than
    FIRST_PAIR pairs it is infinite. A t-interval, printed where a trial stopped, covers the truth
    too rarely (.90 to .92 at a nominal .95; benchmarks/coverage.py).

    Args:
        differences: paired differences, at least one.
        max_pairs: registered maximum of pairs.
        floor: lower limit on the sample standard deviation.
        level: 1 − coverage.
    """
    row = np.array([differences], dtype=np.float64)
    mean, sample_sd = running_moments(row)
    n, scale = len(differences), np.maximum(sample_sd, floor)
    critical = np.array(critical_values(Spending(level, max(max_pairs, n, FIRST_PAIR), two_sided=True), n))
    half_width = float(critical[-1] * scale[0, -1]) / math.sqrt(n)
    return Estimate(float(mean[0, -1]), float(mean[0, -1]) - half_width, float(mean[0, -1]) + half_width, n)


def trial_e_value(differences: Floats, sd: float, rule: StoppingRule) -> float:
    """Return the e-process of one trial after its last pair, capped at e^690.

    For a two-sided question it is the mean of the e-processes of both sides.

    Args:
        differences: candidate − control, shape (pairs,) or (1, pairs).
        sd: standard deviation of A/A differences of the claimed score.
        rule: the parameters.
    """
    row, pooled = np.atleast_2d(differences), np.array([sd])
    if not rule.two_sided:
        return capped_e_value(_log_e_value(row, pooled, rule))
    return float(np.mean([capped_e_value(_log_e_value(sign * row, pooled, rule)) for sign in (1.0, -1.0)]))


def _floored(sample_sd: Floats, sd: Floats, rule: StoppingRule) -> Floats:
    """Return sample standard deviations with their lower limit, shape (trials, pairs).

    Scores lie on a grid, so a few equal gains have no spread. Without a limit they would decide.
    """
    return np.maximum(sample_sd, np.maximum(SD_FLOOR_SHARE * sd, 0.5 / rule.items)[:, None])


def _t_limits(mean: Floats, scale: Floats, critical: Floats, accumulate: bool = True) -> Floats:
    """Return the lower limit after every pair, or the largest one so far, shape (trials, pairs)."""
    pairs = np.arange(1, mean.shape[1] + 1)
    limits = mean - critical[: mean.shape[1]] * scale / np.sqrt(pairs)
    return np.maximum.accumulate(limits, axis=1) if accumulate else limits


def _exact_limits(mean: Floats, scale: Floats, rule: StoppingRule, accumulate: bool = True) -> Floats:
    return _t_limits(mean, scale, np.array(critical_values(rule.spending, max(rule.last_pair, mean.shape[1]))), accumulate)


def _e_limits(mean: Floats, scale: Floats, rule: StoppingRule, accumulate: bool = True) -> Floats:
    return _t_limits(mean, scale, np.array([critical_t(k, rule.threshold) for k in range(1, mean.shape[1] + 1)]), accumulate)


def _is_uncalibrated(sample_sd: Floats, sd: Floats, rule: StoppingRule) -> Bools:
    """Return at which looks the differences are far noisier than the calibration runs."""
    return uncalibrated(sample_sd, difference_sd(sd, rule.items), rule.calibration)


def _exceeds(
    differences: Floats, mean: Floats, sample_sd: Floats, sd: Floats, rule: StoppingRule, margin: float, cushion: Cushion
) -> Bools:  # fmt: skip
    """Return from which pair on it is established that the mean exceeds a margin."""
    if rule.test in ("sign-flip", "betting"):
        return np.logical_or.accumulate(_log_e_values(differences, sd, rule, margin) >= math.log(rule.threshold), axis=1)
    scale = _floored(sample_sd, sd, rule)
    if rule.test == "e-value":
        return _e_limits(mean, scale, rule) > margin
    exact = _exact_limits(mean, scale, rule) > margin
    if rule.test == "t" or not exact.any():
        return exact
    if cushion == "e-value":
        exact &= _e_limits(mean, scale, rule) > margin
    elif cushion == "betting":
        bet = replace(rule, test="betting")
        exact &= np.logical_or.accumulate(_log_e_values(differences, sd, bet, margin) >= math.log(rule.threshold), axis=1)
    suspect = _is_uncalibrated(sample_sd, sd, rule)
    rows = (suspect & exact).any(1)
    if rows.any():
        allowed = (np.arange(1, mean.shape[1] + 1) >= UNCALIBRATED_PAIRS) & ~has_long_lower_tail(differences[rows])
        exact[rows] &= ~suspect[rows] | (allowed & (_e_limits(mean[rows], scale[rows], rule) > margin))
    return np.logical_or.accumulate(exact, axis=1)


def _lower_limit(row: Floats, mean: Floats, sample_sd: Floats, sd: Floats, rule: StoppingRule, cushion: Cushion) -> float:
    """Return the lower confidence limit of one trial, by inverting ``_exceeds``.

    It is the limit at the last look, or at the look that excluded most. The latter applies where it
    excludes a margin that the question is about. (It is always valid, but for an open question it
    may lie beyond the mean, which misleads a reader.) The limit is never above the mean. If the
    mean no longer exceeds that margin, the last look counts.
    """
    if rule.test in ("sign-flip", "betting"):
        largest = last = _inverted_limits(row, sd, rule)[None, :]
    else:
        largest, last = (_limits_of_looks(row, mean, sample_sd, sd, rule, cushion, accumulate) for accumulate in (True, False))
    best, at_last_look, centre = float(largest.max()), float(last[0, -1]), float(mean[0, -1])
    asked = [rule.margin, *([] if rule.same_within is None else [-rule.same_within])]
    return min(best if any(m < min(best, centre) for m in asked) else at_last_look, centre)


def _limits_of_looks(
    row: Floats, mean: Floats, sample_sd: Floats, sd: Floats, rule: StoppingRule, cushion: Cushion, accumulate: bool
) -> Floats:  # fmt: skip
    """Return the lower confidence limit at every look, shape (1, pairs).

    With ``accumulate``, each test's limit is the largest one up to that look.
    """
    scale = _floored(sample_sd, sd, rule)
    if rule.test == "e-value":
        return _e_limits(mean, scale, rule, accumulate)
    limits = _exact_limits(mean, scale, rule, accumulate)
    if rule.test == "t":
        return limits
    if cushion == "e-value":
        limits = np.minimum(limits, _e_limits(mean, scale, rule, accumulate))
    elif cushion == "betting":
        limits = np.minimum(limits, _inverted_limits(row, sd, replace(rule, test="betting"))[None, :])
    suspect = _is_uncalibrated(sample_sd, sd, rule)
    if suspect.any():
        allowed = (np.arange(1, row.shape[1] + 1) >= UNCALIBRATED_PAIRS) & ~has_long_lower_tail(row)
        stricter = np.where(allowed, np.minimum(limits, _e_limits(mean, scale, rule, accumulate)), -math.inf)
        limits = np.where(suspect, stricter, limits)
    return limits


def _inverted_limits(row: Floats, sd: Floats, rule: StoppingRule) -> Floats:
    """Return the lower confidence limit of one trial after every pair, by trying margins.

    The limit after a pair is the largest margin below which every margin of a grid was rejected by
    then. The margins that the rule asks about are part of the grid.
    """
    low, high = rule.bounds
    asked = [rule.margin, *([] if rule.same_within is None else [-rule.same_within])]
    grid = np.unique(np.concatenate([np.linspace(low, high, _GRID)[1:-1], asked]))
    if rule.test == "sign-flip":  # depends on D − m only
        log_e = log_sign_flip_e_values(row - grid[:, None], 0.0, np.repeat(difference_sd(sd, rule.items), len(grid)))
    else:
        log_e = np.concatenate([_log_e_values(row, sd, rule, m) for m in grid.tolist()])
    rejected = np.logical_and.accumulate(np.logical_or.accumulate(log_e >= math.log(rule.threshold), axis=1), axis=0).sum(0)
    # The limit lies just above the last rejected margin, which is itself excluded.
    return np.asarray(np.where(rejected > 0, np.nextafter(grid[np.maximum(rejected - 1, 0)], math.inf), low))


def _log_e_values(differences: Floats, sd: Floats, rule: StoppingRule, margin: float) -> Floats:
    """Return the log e-process of the sign-flip or the betting test, shape (trials, pairs)."""
    if rule.test == "sign-flip":
        return log_sign_flip_e_values(differences, margin, difference_sd(sd, rule.items))
    low, high = rule.bounds
    if not low < margin < high:  # a mean cannot lie outside the bounds
        return np.full(differences.shape, -math.inf)
    return log_betting_e_values(differences, margin, low, high)


def _log_e_value(row: Floats, sd: Floats, rule: StoppingRule) -> float:
    """Return the log e-process of one side of one trial after its last pair."""
    if rule.test in ("sign-flip", "betting"):
        return float(_log_e_values(row, sd, rule, rule.margin)[0, -1])
    k = row.shape[1]
    if k == 1:
        return 0.0
    mean, sample_sd = running_moments(row)
    scale = float(_floored(sample_sd, sd, rule)[0, -1])
    return log_e_value(float(mean[0, -1] - rule.margin) * math.sqrt(k) / scale, k)


def _futile(mean: Floats, sample_sd: Floats, sd: Floats, rule: StoppingRule) -> Bools:
    """Return where a trial should stop for futility, shape (trials, pairs).

    There are two reasons. The pairs are evidence against the smallest effect of interest: its
    likelihood ratio against "no effect beyond the margin" is below e^−patience (Wald's sequential
    test; a two-sided question has equal prior weights on both directions). Or the conditional power
    is below MIN_CONDITIONAL_POWER: the chance of an answer by the maximum, if the true effect is
    the observed one or the smallest effect of interest, whichever is larger.
    """
    if rule.worth == 0 or rule.same_within is not None or rule.horizon is not None:
        return np.zeros(mean.shape, dtype=bool)  # an extension is asked for, whatever is likely
    pairs = np.arange(1, mean.shape[1] + 1)
    weight = max(1, rule.calibration)
    noise = difference_sd(sd, rule.items)[:, None]
    noise = np.sqrt((weight * noise**2 + (pairs - 1) * sample_sd**2) / (weight + pairs - 1))
    null = rule.margin / noise
    effect, total = null + rule.worth, pairs * mean / noise
    if rule.two_sided:
        ratio = np.logaddexp(effect * total, -effect * total) - np.logaddexp(null * total, -null * total)
        beyond = np.abs(total) - pairs * null
    else:
        ratio = (effect - null) * total
        beyond = total - pairs * null
    futile = ratio - pairs * (effect**2 - null**2) / 2 < -rule.patience
    if rule.test in ("auto", "t"):
        left = np.maximum(rule.last_pair - pairs, 0)
        needed = critical_values(rule.spending, rule.last_pair)[-1] * math.sqrt(rule.last_pair)
        drift = np.maximum(rule.worth, beyond / pairs)
        power = ndtr((beyond + left * drift - needed) / np.sqrt(np.maximum(left, 1e-9)))
        futile |= (power < MIN_CONDITIONAL_POWER) & (pairs >= FIRST_PAIR) & (left > 0)
    return np.asarray(futile)
