"""The three tests a trial may be decided by: their error whenever one stops, and what each is good for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from stagezero.evidence import Look, Rule, Test, betting_interval, log_betting_e_value, log_sign_flip_e_value

ALPHA = 0.05


def rule(test: Test = "t", level: float = ALPHA, worth: float = 0.0, max_pairs: int = 25) -> Rule:
    return Rule(level, 0.0, sd=0.04, items=50, worth=worth, max_pairs=max_pairs, test=test)


def promotions(test: Test, draws: np.ndarray) -> int:
    """Rows that ever cross, looked at after every pair."""
    judge = rule(test)
    return sum(any(judge.crosses(row[:k]) for k in range(1, len(row) + 1)) for row in draws.tolist())


def assert_within(wrong: int, runs: int, level: float = ALPHA) -> None:
    assert stats.binomtest(wrong, runs, level, "greater").pvalue > 1e-3


@pytest.mark.parametrize("test", ["t", "sign-flip", "betting"])
def test_nothing_is_promoted_more_often_than_stated(test: Test) -> None:
    draws = np.random.default_rng(1).normal(0.0, 0.04, (2000, 20)).clip(-1, 1)
    assert_within(promotions(test, draws), 2000)


@pytest.mark.parametrize("test", ["t", "sign-flip", "betting"])
def test_scores_on_a_grid(test: Test) -> None:
    draws = np.round(np.random.default_rng(2).normal(0.0, 0.04, (2000, 20)) * 20) / 20  # ten items of each kind
    judge = Rule(ALPHA, 0.0, sd=0.041, items=10, worth=0.0, max_pairs=20, test=test)
    wrong = sum(any(judge.crosses(row[:k]) for k in range(1, 21)) for row in draws.tolist())
    assert_within(wrong, 2000)


def test_heavy_symmetric_tails_are_the_sign_flips_own() -> None:
    draws = (0.04 * np.random.default_rng(3).standard_t(1.5, (2000, 20))).clip(-1, 1)
    assert_within(promotions("sign-flip", draws), 2000)


def test_rare_collapse_is_the_bettings_own_and_not_the_t_tests() -> None:
    """A mean of zero made of small gains and rare collapses: most short runs see the gains alone."""
    rng, runs = np.random.default_rng(4), 2000
    collapsed = rng.random((runs, 20)) < 0.05
    draws = np.where(collapsed, -0.76, 0.04) + rng.normal(0, 0.02, (runs, 20))  # E D = 0
    assert_within(promotions("betting", draws), runs)
    t_test = sum(any(Rule(ALPHA, 0.0, 0.03, 50, 0.0, 20).crosses(r[:k]) for k in range(1, 21)) for r in draws.tolist())
    assert stats.binomtest(t_test, runs, ALPHA, "greater").pvalue < 1e-6, "if this fails, the caveat in the docs can go"


def test_negative_control_asymmetric_differences_break_the_sign_flip() -> None:
    rng, runs = np.random.default_rng(5), 1000
    draws = np.where(rng.random((runs, 20)) < 0.05, -0.76, 0.04) + rng.normal(0, 0.02, (runs, 20))
    assert stats.binomtest(promotions("sign-flip", draws), runs, ALPHA, "greater").pvalue < 1e-6


def test_sign_flips_never_exceed_two_to_the_k() -> None:
    for k in (1, 3, 11):
        assert log_sign_flip_e_value([5.0] * k, 0.0, 0.01) <= k * math.log(2) + 1e-9
    assert log_sign_flip_e_value([], 0.0, 1.0) == 0.0
    with pytest.raises(ValueError, match="scale"):
        log_sign_flip_e_value([1.0], 0.0, 0.0)


def test_the_mean_over_all_flips_is_at_most_one() -> None:
    sizes = [0.3, 0.01, 0.2, 0.07]
    flips = [math.exp(log_sign_flip_e_value([s * x for s, x in zip(signs, sizes, strict=True)], 0.0, 0.05))
             for signs in itertools.product((1, -1), repeat=4)]  # fmt: skip
    assert np.mean(flips) == pytest.approx(1.0, rel=1e-9)


def test_an_effect_is_found() -> None:
    draws = np.random.default_rng(6).normal(0.12, 0.04, (200, 25))
    assert promotions("t", draws) == 200 and promotions("sign-flip", draws) == 200
    assert (
        sum(log_betting_e_value(row.tolist(), 0.0) > math.log(20) for row in np.random.default_rng(7).normal(0.12, 0.04, (50, 100))) == 50
    )


def test_the_confidence_sequence_covers_at_every_time_at_once() -> None:
    rng, runs, missed = np.random.default_rng(8), 2000, 0
    for _ in range(runs):
        found = betting_interval(rng.binomial(1, 0.8, 60).tolist(), grid=200)
        missed += not found.low <= 0.8 <= found.high  # the running intersection: a miss at any earlier time is a miss
    assert_within(missed, runs)


def test_the_confidence_sequence_closes_in() -> None:
    rng = np.random.default_rng(9)
    few, many = betting_interval(rng.binomial(1, 0.8, 50).tolist()), betting_interval(rng.binomial(1, 0.8, 2000).tolist())
    assert few.high - few.low > 2 * (many.high - many.low) and many.high - many.low < 0.1
    assert betting_interval([]).low == 0.0
    certain = betting_interval([1.0] * 5200)
    assert certain.low < 0.9996 and certain.high == 1.0, "the grid's own step is never believed away"
    with pytest.raises(ValueError, match="values"):
        betting_interval([1.2])


def test_looks() -> None:
    judge = rule(worth=2.5)
    assert judge.look([-0.1]) is Look.GIVE_UP, "one bad pair may be enough"
    assert judge.look([0.08]) is Look.GO_ON
    assert judge.look([0.1, 0.11, 0.12, 0.1, 0.11, 0.1]) is Look.CROSSED
    assert rule(max_pairs=3).look([0.01, -0.01, 0.02]) is Look.SPENT


def test_giving_up_only_loses_power() -> None:
    draws = np.random.default_rng(10).normal(0.0, 0.04, (500, 25)).tolist()
    patient, hasty = rule(), rule(worth=2.5)
    for row in draws:
        looks = [hasty.look(row[:k]) for k in range(1, 26)]
        ended = next((k for k, look in enumerate(looks) if look is not Look.GO_ON), 24)
        if looks[ended] is Look.CROSSED:
            assert any(patient.crosses(row[:k]) for k in range(1, 26))
