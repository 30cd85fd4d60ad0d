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
    counted_bits,
    idea_level,
    non_inferiority,
    pooled_sd,
    stage_level,
    t_interval,
    worth_continuing,
)


def test_t_interval_covers() -> None:
    rng, runs = np.random.default_rng(0), 3000
    missed = 0
    for _ in range(runs):
        found = t_interval(rng.normal(0.3, 0.05, 5).tolist())
        missed += not found.low <= 0.3 <= found.high
    assert stats.binomtest(missed, runs, 0.05, "greater").pvalue > 1e-3
    assert stats.binomtest(missed, runs, 0.02, "greater").pvalue < 1e-3, "an interval that never misses is too wide"


def test_t_interval_of_one_seed_says_nothing() -> None:
    assert t_interval([0.4]).high == math.inf


def test_clopper_pearson_is_exact() -> None:
    # The chance that the bound exceeds the true p, summed over the binomial, is at most the level.
    n, p, level = 200, 0.8, 0.01
    wrong = sum(stats.binom.pmf(k, n, p) for k in range(n + 1) if clopper_pearson_lower(k, n, level) > p)
    assert wrong <= level
    assert clopper_pearson_lower(0, 10, 0.05) == 0.0


def test_collapse_bound_is_the_documented_figure() -> None:
    assert collapse_rate_bound(12) == pytest.approx(0.22, abs=0.002)


def test_guards_pass_a_harmful_idea_at_most_at_their_level() -> None:
    rng, runs, margin = np.random.default_rng(3), 3000, 0.05
    held = sum(non_inferiority("g", rng.normal(-margin, 0.03, 10).tolist(), margin, 0.01).shown == "holds" for _ in range(runs))
    assert stats.binomtest(held, runs, 0.05, "greater").pvalue > 1e-3


def test_guards_tell_not_shown_from_failed() -> None:
    assert non_inferiority("g", [0.0] * 5, 0.05, 0.01).shown == "not shown"
    assert non_inferiority("g", [0.0, 0.01] * 5, 0.05, 0.01).shown == "holds"
    assert non_inferiority("g", [-0.2, -0.21] * 5, 0.05, 0.01).shown == "fails"
    assert non_inferiority("g", [-0.3, 0.3] * 5, 0.05, 0.01).shown == "not shown"


def test_pooled_noise_knows_its_mean_is_zero() -> None:
    assert pooled_sd([0.03, -0.03]) == pytest.approx(0.03)
    assert pooled_sd([]) == 0.0


def test_giving_up_is_possible_after_one_pair() -> None:
    assert not worth_continuing([-0.1], 0.0, sd=0.02, worth=2.0)
    assert worth_continuing([0.05], 0.0, sd=0.02, worth=2.0)


def test_bits_are_the_documented_figures() -> None:
    assert counted_bits(12, 3) == pytest.approx(8.2, abs=0.05)
    assert counted_bits(52, 3) == pytest.approx(14.5, abs=0.05)
    assert counted_bits(0, 0) == 0.0
    # A bar of .80 then needs about .851 observed on 1,000 clusters.
    level = claim_level(0.05, 6, counted_bits(12, 3))
    need = next(k for k in range(1001) if clopper_pearson_lower(k, 1000, level) >= 0.80) / 1000
    assert need == pytest.approx(0.851, abs=0.004)


def test_spending_never_exceeds_the_campaigns_error() -> None:
    assert sum(stage_level(0.05, n, 4) for n in range(1, 5)) == pytest.approx(0.05)
    assert sum(stage_level(0.05, n, None) for n in range(1, 10_000)) < 0.05
    assert idea_level(0.01, 10) == pytest.approx(0.001)
    with pytest.raises(ValueError, match="stage"):
        stage_level(0.05, 5, 4)
