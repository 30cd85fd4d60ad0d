"""What simulations share: the noise that a campaign knows, and exact intervals of counts. The rule itself is the package's."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pooled_from_five(rng: np.random.Generator, noise: Floats) -> Floats:
    """What a campaign knows of its noise: the root mean square of five A/A differences around a ring. ``noise``: (trials, 5, 2)."""
    same_items = noise[:, :, 1] - np.roll(noise[:, :, 0], -1, axis=1)
    return np.asarray(np.sqrt((same_items**2).mean(1)))


def binomial_interval(count: int, n: int) -> tuple[float, float]:
    """Exact 95 % interval."""
    from scipy.stats import binomtest

    found = binomtest(count, n).proportion_ci(0.95, "exact")
    return (0.0 if math.isnan(found.low) else float(found.low)), float(found.high)
