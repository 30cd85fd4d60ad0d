"""The noise of a score, taken apart: builds, items, and both together.

A calibration build s answers the items of its own replicate s and those of the next one, in a ring.
Its score on the items of replicate j is modelled as

    X_sj = mean + b_s + i_j + e_sj,

with independent parts: b for the build's seed (its draw and order of the data, and whatever else
depends on the seed), i for the difficulty of the items, and e for how much this build is better on
these items than elsewhere. Three kinds of differences determine the three variances:

    same items, neighbouring builds    2 σ_b² + 2 σ_e²     this is the noise of a paired difference
    same build, neighbouring items     2 σ_i² + 2 σ_e²
    neither the same                   2 σ_b² + 2 σ_i² + 2 σ_e²

The items cancel in a paired difference. Of what remains, only σ_e² shrinks with more items: with m
times as many, it is σ_e²/m. So more items help until σ_b² dominates, and beyond that only more
builds do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoiseParts:
    """Standard deviations of one score: of builds, of items, and of a build on particular items."""

    builds: float
    items: float
    both: float

    def paired_sd(self, factor: float = 1.0) -> float:
        """Return the standard deviation of a paired difference with ``factor`` times the items."""
        return math.sqrt(2 * (self.builds**2 + self.both**2 / factor))


def noise_parts(own: Sequence[float], following: Sequence[float]) -> NoiseParts:
    """Estimate the parts from a ring of calibration builds.

    Variances are estimated without bias, and set to 0 where the estimate is negative.

    Args:
        own: scores of the builds on the items of their own replicate, in the order of the ring.
        following: their scores on the items of the next replicate.

    Raises:
        ValueError: the lengths differ, or there are fewer than three builds.
    """
    n = len(own)
    if n != len(following) or n < 3:
        raise ValueError(f"own, following: expected scores of the same three or more builds, got {n} and {len(following)}")
    same_items = sum((following[s] - own[(s + 1) % n]) ** 2 for s in range(n)) / n
    same_build = sum((own[s] - following[s]) ** 2 for s in range(n)) / n
    neither = sum((own[s] - own[(s + 1) % n]) ** 2 for s in range(n)) / n
    parts = ((neither - same_build) / 2, (neither - same_items) / 2, (same_items + same_build - neither) / 2)
    return NoiseParts(*(math.sqrt(max(0.0, part)) for part in parts))


def best_items_factor(parts: NoiseParts, train_seconds: float, answer_seconds: float) -> float:
    """Return how many times as many items buy the most evidence for the time.

    The evidence of a pair is inversely proportional to the variance of its difference, so the
    product of variance and time is minimised: (σ_b² + σ_e²/m) · (training + m · answers).

    Args:
        parts: the noise at the current number of items.
        train_seconds: time to train a model.
        answer_seconds: time to answer the current number of items.

    Returns:
        The factor m, within [1/8, 8].

    Raises:
        ValueError: a time is not positive.
    """
    if not train_seconds > 0 or not answer_seconds > 0:
        raise ValueError(f"train_seconds, answer_seconds: expected positive times, got {train_seconds} and {answer_seconds}")
    if parts.builds == 0:
        return 8.0
    return min(8.0, max(1 / 8, parts.both / parts.builds * math.sqrt(train_seconds / answer_seconds)))
