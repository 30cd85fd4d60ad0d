"""Coverage of every interval and error of every test, by simulation with binomial bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from stagezero.evidence import (
    claim_level,
    clopper_pearson_lower,
    collapse_rate_bound,
    e_lond_level,
    idea_level,
    pooled_sd,
    stage_level,
    t_interval,
)
from stagezero.evidence.leakage import counted_bits


def test_the_t_interval_has_its_coverage() -> None:
    rng, runs = np.random.default_rng(0), 3000
    missed = 0
    for _ in range(runs):
        interval = t_interval(rng.normal(0.3, 0.05, 5).tolist())
        missed += not interval.low <= 0.3 <= interval.high
    assert stats.binomtest(missed, runs, 0.05, "greater").pvalue > 1e-3
    assert stats.binomtest(missed, runs, 0.02, "greater").pvalue < 1e-3, "an interval that always covers is too wide"


def test_the_t_interval_of_one_seed_is_infinite() -> None:
    assert t_interval([0.4]).high == math.inf


def test_clopper_pearson_is_exact() -> None:
    # The chance that the bound exceeds the true p, summed over the binomial, is at most the level.
    n, p, level = 200, 0.8, 0.01
    wrong = sum(stats.binom.pmf(k, n, p) for k in range(n + 1) if clopper_pearson_lower(k, n, level) > p)
    assert wrong <= level
    assert clopper_pearson_lower(0, 10, 0.05) == 0.0


def test_the_collapse_bound_is_the_documented_figure() -> None:
    assert collapse_rate_bound(12) == pytest.approx(0.22, abs=0.002)


def test_the_pooled_sd_is_about_a_mean_of_zero() -> None:
    assert pooled_sd([0.03, -0.03]) == pytest.approx(0.03)
    assert pooled_sd([]) == 0.0


def test_intervals_clustered_by_seed_cover_where_pooled_values_do_not() -> None:
    rng, runs, seeds, each = np.random.default_rng(4), 3000, 6, 5
    missed = pooled = 0
    seed_of_value = [s for s in range(seeds) for _ in range(each)]
    for _ in range(runs):
        values = 0.4 + 0.05 * np.repeat(rng.standard_normal(seeds), each) + 0.03 * rng.standard_normal(seeds * each)
        interval, pooled_interval = t_interval(values.tolist(), seeds=seed_of_value), t_interval(values.tolist())
        missed += not interval.low <= 0.4 <= interval.high
        pooled += not pooled_interval.low <= 0.4 <= pooled_interval.high
    assert stats.binomtest(missed, runs, 0.05, "greater").pvalue > 1e-3
    assert stats.binomtest(pooled, runs, 0.05, "greater").pvalue < 1e-6, "negative control: values of one seed are not independent"


def test_with_one_value_per_seed_the_interval_is_the_textbook_one() -> None:
    values = [0.1, 0.3, 0.2, 0.4]
    assert t_interval(values, seeds=[1, 2, 3, 4]) == t_interval(values)
    assert t_interval([0.1, 0.1, 0.3, 0.3], seeds=["a", "a", "b", "b"]).high == pytest.approx(t_interval([0.1, 0.3]).high)
    with pytest.raises(ValueError, match="seeds"):
        t_interval(values, seeds=[1])


def test_without_variation_the_interval_of_a_bounded_value_has_a_width() -> None:
    """A coin that shows ±1 five times alike is no proof; the t-interval had zero width."""
    rng, runs, missed, zero_width = np.random.default_rng(14), 4000, 0, 0
    for chance in (0.5, 0.8, 0.95):
        for _ in range(runs):
            values = np.where(rng.random(5) < chance, 1.0, -1.0).tolist()
            if len(set(values)) == 1:
                interval, plain = t_interval(values, bounds=(-1, 1)), t_interval(values)
                missed += not interval.low <= 2 * chance - 1 <= interval.high
                zero_width += not plain.low <= 2 * chance - 1 <= plain.high
    assert stats.binomtest(missed, 3 * runs, 0.05, "greater").pvalue > 1e-3
    assert stats.binomtest(zero_width, 3 * runs, 0.05, "greater").pvalue < 1e-6, "negative control: an interval without width"
    assert t_interval([0.1] * 3, bounds=(0, 1)).low < 0.1 < t_interval([0.1] * 3, bounds=(0, 1)).high, "0.1 + 0.1 + 0.1 is not 0.3"
    assert t_interval([1.0] * 25, bounds=(-1, 1)).low == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 25)))


def test_bits_are_the_documented_figures() -> None:
    assert counted_bits(12, 3) == pytest.approx(8.2, abs=0.05)
    assert counted_bits(52, 3) == pytest.approx(14.5, abs=0.05)
    assert counted_bits(0, 0) == 0.0
    # A bar of .80 then needs about .851 observed on 1,000 clusters.
    level = claim_level(0.05, 6, counted_bits(12, 3))
    need = next(k for k in range(1001) if clopper_pearson_lower(k, 1000, level) >= 0.80) / 1000
    assert need == pytest.approx(0.851, abs=0.004)


def test_e_lond_controls_the_share_of_false_promotions() -> None:
    """Fifty hypotheses in batches of ten, a fifth useful; e-values with mean 1 under the null."""
    rng, runs, shares, true_promotions = np.random.default_rng(12), 2000, [], 0
    for _ in range(runs):
        useful = rng.random(50) < 0.2
        # Likelihood ratios of N(4, 1) against N(0, 1): e-values.
        e = np.exp(4 * (rng.standard_normal(50) + 4 * useful) - 8)
        promoted = np.zeros(50, dtype=bool)
        for start in range(0, 50, 10):
            level = e_lond_level(0.05, start, 10, int(promoted.sum()))
            promoted[start : start + 10] = e[start : start + 10] >= 1 / level
        shares.append((promoted & ~useful).sum() / max(promoted.sum(), 1))
        true_promotions += int((promoted & useful).sum())
    assert np.mean(shares) < 0.05 and true_promotions > 0.2 * runs
    with pytest.raises(ValueError, match="promoted"):
        e_lond_level(0.05, 3, 1, 4)


def test_spending_never_exceeds_the_campaigns_error() -> None:
    assert sum(stage_level(0.05, n, 4) for n in range(1, 5)) == pytest.approx(0.05)
    assert sum(stage_level(0.05, n, None) for n in range(1, 10_000)) < 0.05
    assert idea_level(0.01, 10) == pytest.approx(0.001)
    with pytest.raises(ValueError, match="stage"):
        stage_level(0.05, 5, 4)
