"""Functions that simulations share: noise estimates and exact intervals of counts.

The decision rule is not among them: simulations call the package's own.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pooled_sd_from_ring(scores: Floats) -> Floats:
    """Estimate the noise as a campaign does, from calibration builds arranged in a ring.

    Each build is compared with the next one on the same items. The estimate is the root mean square
    of these A/A differences.

    Args:
        scores: scores of five builds, each on its own items and on those of the next build; shape
            (trials, 5, 2).

    Returns:
        The standard deviation of a paired difference, in score units; shape (trials,).
    """
    same_items = scores[:, :, 1] - np.roll(scores[:, :, 0], -1, axis=1)
    return np.asarray(np.sqrt((same_items**2).mean(1)))


def binomial_interval(count: int, n: int) -> tuple[float, float]:
    """Return the exact (Clopper–Pearson) 95 % confidence interval of a proportion."""
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(0.95, "exact")
    return (0.0 if math.isnan(interval.low) else float(interval.low)), float(interval.high)
