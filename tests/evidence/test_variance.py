"""The noise taken apart, and the advice that minimises variance times time."""

from __future__ import annotations

import numpy as np
import pytest

from stagezero.evidence.variance import NoiseParts, best_items_factor, noise_parts


def ring(rng: np.random.Generator, n: int, builds: float, items: float, both: float) -> tuple[list[float], list[float]]:
    b, i = rng.normal(0, builds, n), rng.normal(0, items, n)
    own = 0.5 + b + i + rng.normal(0, both, n)
    following = 0.5 + b + np.roll(i, -1) + rng.normal(0, both, n)
    return own.tolist(), following.tolist()


@pytest.mark.parametrize("truth", [(0.03, 0.02, 0.01), (0.01, 0.03, 0.03), (0.02, 0.0, 0.02)])
def test_the_parts_are_recovered(truth: tuple[float, float, float]) -> None:
    estimate = noise_parts(*ring(np.random.default_rng(1), 20_000, *truth))
    assert (estimate.builds, estimate.items, estimate.both) == pytest.approx(truth, abs=0.003)
    assert estimate.paired_sd() == pytest.approx(np.sqrt(2 * (truth[0] ** 2 + truth[2] ** 2)), rel=0.03)


def test_the_paired_noise_is_that_of_the_same_items() -> None:
    own, following = ring(np.random.default_rng(3), 10, 0.03, 0.02, 0.02)
    same_items = np.mean([(following[s] - own[(s + 1) % 10]) ** 2 for s in range(10)])
    parts = noise_parts(own, following)
    assert min(parts.builds, parts.both) > 0, "choose another seed"
    assert parts.paired_sd() ** 2 == pytest.approx(same_items)


def test_the_advice_minimises_variance_times_time() -> None:
    parts = NoiseParts(0.02, 0.05, 0.03)
    factors = np.geomspace(1 / 8, 8, 2000)
    price = [parts.paired_sd(m) ** 2 * (40.0 + m * 10.0) for m in factors]
    assert best_items_factor(parts, 40.0, 10.0) == pytest.approx(float(factors[int(np.argmin(price))]), rel=0.01)
    assert (
        best_items_factor(NoiseParts(0.0, 0.0, 0.03), 1.0, 1.0) == 8.0 and best_items_factor(NoiseParts(0.03, 0.0, 0.0), 1.0, 1.0) == 1 / 8
    )
    with pytest.raises(ValueError, match="positive times"):
        best_items_factor(parts, 0.0, 1.0)
    with pytest.raises(ValueError, match="three or more"):
        noise_parts([0.5, 0.5], [0.5, 0.5])
