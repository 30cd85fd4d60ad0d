"""Functions that simulations share: trials with calibration, and exact intervals of counts.

The decision rule is not among them: simulations call the package's own.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stagezero.evidence import Cushions, Outcomes, StoppingRule, choose_cushions, interim_results

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
CALIBRATION = 10
"""Number of calibration runs of a trial."""


def pooled_sd_from_ring(scores: Floats) -> Floats:
    """Estimate the noise as a campaign does, from calibration builds arranged in a ring.

    Each build is compared with the next one on the same items. The estimate is the root mean square
    of these A/A differences.

    Args:
        scores: scores of the builds, each on its own items and on those of the next build; shape
            (trials, builds, 2).

    Returns:
        The standard deviation of a paired difference, in score units; shape (trials,).
    """
    same_items = scores[:, :, 1] - np.roll(scores[:, :, 0], -1, axis=1)
    return np.asarray(np.sqrt((same_items**2).mean(1)))


def calibrated_sd(control: Floats, n: int = CALIBRATION) -> Floats:
    """Estimate the noise from the first ``n`` control builds, whose scores do not depend on items.

    Args:
        control: scores, shape (trials, pairs).
        n: number of calibration builds.
    """
    first = control[:, :n]
    return pooled_sd_from_ring(np.stack([first, first], axis=2))


def run_trials(
    control: Floats, candidate: Floats, rule: StoppingRule, bounds: tuple[float, float] | None = (0.0, 1.0), choice: bool = True
) -> Outcomes:  # fmt: skip
    """Run trials as the package does: calibrate, choose the test, and stop at the first answer.

    Args:
        control, candidate: scores, shape (trials, pairs). The first control builds are the
            calibration.
        rule: the stopping rule.
        bounds: smallest and largest possible score; None if there are none.
        choice: False uses the exact t-test alone, whatever calibration says.
    """
    sd = calibrated_sd(control, rule.calibration)
    if not choice:
        return interim_results(candidate - control, sd, replace(rule, test="t")).outcomes()
    chosen = [choose_cushions(scores[: rule.calibration], float(noise), bounds) for scores, noise in zip(control, sd, strict=True)]
    kinds = [(c.better, c.worse) for c in chosen]
    better, worse, same = (np.zeros(len(sd), dtype=bool) for _ in range(3))
    pairs = np.zeros(len(sd), dtype=np.int64)
    for kind in set(kinds):
        rows = np.array([k == kind for k in kinds])
        outcomes = interim_results((candidate - control)[rows], sd[rows], replace(rule, cushions=Cushions(*kind))).outcomes()
        better[rows], worse[rows], same[rows], pairs[rows] = outcomes.better, outcomes.worse, outcomes.same, outcomes.pairs
    return Outcomes(better, worse, same, pairs)


def binomial_interval(count: int, n: int) -> tuple[float, float]:
    """Return the exact (Clopper–Pearson) 95 % confidence interval of a proportion."""
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(0.95, "exact")
    return (0.0 if math.isnan(interval.low) else float(interval.low)), float(interval.high)
