"""Which test a trial uses: chosen from calibration runs and the metric's range.

The exact boundary of ``boundary.py`` supposes normal differences. A t-test errs more often where
the differences have a long tail on the side of a loss: one sees many small gains and rarely a large
loss. Three signs of this are checked:

    near a bound   The control scores near the best possible value, so a candidate can only lose
                   much. Then the betting test must agree. It needs no assumption but the range.
    skewness       The control's calibration runs are skewed. Then the e-value must reach 1/level.
    too few runs   Fewer than MIN_RUNS calibration runs cannot show skewness. The e-value must
                   reach 1/level.

A fourth sign is checked at every look: the paired differences are far noisier than the calibration
runs, so that these do not describe the candidate. Then a decision needs at least
UNCALIBRATED_PAIRS pairs, an e-value of 1/level, and differences without a long tail of losses.

Every choice is an additional requirement beside the exact boundary. So the choice cannot raise the
error under normality, whatever it is based on. It lowers the error under other distributions
(benchmarks/power.py has the figures); no error rate is guaranteed there, except with betting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Cushion = Literal["none", "e-value", "betting"]
"""A test that must agree with the exact boundary."""
MIN_RUNS = 8
"""Number of calibration runs below which their shape is unknown."""
NEAR_BOUND_SHARE, NEAR_BOUND_SDS = 0.05, 1.0
"""A score is near a bound if it is within this share of the range, or within this many standard
deviations of an A/A difference."""
UNCALIBRATED_PAIRS = 15
"""Number of pairs before which a trial with uncalibrated noise does not decide."""
_SKEWNESS_QUANTILE = 2.24
_NOISE_RATIO_LEVEL = 0.02
_TAIL_QUANTILE = 1.28


@dataclass(frozen=True, slots=True)
class Cushions:
    """The tests that must agree with the exact boundary, for each direction, and the reason."""

    better: Cushion = "none"
    worse: Cushion = "none"
    why: str = "the calibration runs do not contradict normal differences"


def skewness_sd(n: int) -> float:
    """Return the standard deviation of the sample skewness of ``n`` normal values."""
    return math.sqrt(6.0 * (n - 2) / ((n + 1) * (n + 3))) if n > 2 else math.inf


def skewness(values: Floats) -> Floats:
    """Return the sample skewness along the last axis; 0 where there is no spread."""
    centred = values - values.mean(-1, keepdims=True)
    sd = np.sqrt((centred**2).mean(-1))
    third = (centred**3).mean(-1)
    return np.asarray(np.divide(third, sd**3, out=np.zeros_like(third), where=sd > 1e-12))


def choose_cushions(scores: Floats, sd: float, bounds: tuple[float, float] | None = (0.0, 1.0)) -> Cushions:
    """Choose the tests that must agree with the exact boundary.

    Args:
        scores: the control's scores in the calibration runs, larger is better, shape (runs,).
        sd: standard deviation of an A/A difference.
        bounds: smallest and largest possible score; None if there are none.
    """
    n = len(scores)
    if n < MIN_RUNS:
        return Cushions("e-value", "e-value", f"{n} calibration runs are too few to show whether differences are normal")
    skew = float(skewness(scores))
    general: Cushion = "none"
    reasons = []
    if abs(skew) > _SKEWNESS_QUANTILE * skewness_sd(n):
        general = "e-value"
        reasons.append(f"the calibration runs are skewed ({skew:+.1f})")
    better, worse = general, general
    if bounds is not None:
        near = max(NEAR_BOUND_SHARE * (bounds[1] - bounds[0]), NEAR_BOUND_SDS * sd)
        mean = float(scores.mean())
        if mean > bounds[1] - near:
            better = "betting"
            reasons.append(f"the control scores {mean:.3g}, near the largest value {bounds[1]:g}")
        if mean < bounds[0] + near:
            worse = "betting"
            reasons.append(f"the control scores {mean:.3g}, near the smallest value {bounds[0]:g}")
    return Cushions(better, worse, " and ".join(reasons)) if reasons else Cushions()


def uncalibrated(sample_sd: Floats, sd: Floats, calibration: int) -> Bools:
    """Return where paired differences are far noisier than A/A differences.

    The test is an F-test at level .02.

    Args:
        sample_sd: standard deviation of the differences after every pair, shape (trials, pairs).
        sd: standard deviation of an A/A difference, shape (trials,).
        calibration: number of A/A differences.
    """
    pairs = sample_sd.shape[1]
    # Each calibration run is part of two A/A differences, so these are correlated.
    df = max(1.0, calibration / 1.5)
    limit = np.array([math.inf, *(float(fdtri(k - 1, df, 1 - _NOISE_RATIO_LEVEL)) for k in range(2, pairs + 1))])
    return np.asarray(sample_sd**2 > limit * sd[:, None] ** 2)


def has_long_lower_tail(differences: Floats) -> Bools:
    """Return where the differences up to each pair have a long tail of losses, (trials, pairs)."""
    result = np.zeros(differences.shape, dtype=bool)
    for k in range(3, differences.shape[1] + 1):
        result[:, k - 1] = skewness(differences[:, :k]) < -_TAIL_QUANTILE * skewness_sd(k)
    return result


def describe_test(test: str, cushions: Cushions) -> str:
    """Return what a trial's test is and what it supposes, in one sentence."""
    if test != "auto":
        return {
            "t": "exact sequential t-test, as requested; it supposes normal differences",
            "e-value": "e-value of a t-test, as requested; it supposes normal differences",
            "sign-flip": "sign-flip e-value, as requested; it supposes symmetric differences",
            "betting": "betting e-value, as requested; it supposes only the range of the scores",
        }[test]
    extra = sorted({c for c in (cushions.better, cushions.worse) if c != "none"})
    if not extra:
        return f"exact sequential t-test; {cushions.why}"
    return f"exact sequential t-test, with which the {' and the '.join(extra)} must agree, because {cushions.why}"


__all__ = ["Cushion", "Cushions", "choose_cushions", "describe_test", "has_long_lower_tail", "uncalibrated"]
