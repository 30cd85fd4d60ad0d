"""The stopping rule: answers, intervals, futility and extensions, with their error rates."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from stagezero.evidence import Cushions, StoppingRule, Test, confidence_interval, interim_results, trial_e_value
from stagezero.evidence.sequential import running_moments

ALPHA, SD = 0.05, 0.04
TESTS: tuple[Test, ...] = ("auto", "t", "e-value", "sign-flip", "betting")


def rule(
    test: Test = "auto", worth: float = 0.0, items: int = 50, two_sided: bool = False, max_pairs: int = 20, **more: object
) -> StoppingRule:
    return replace(StoppingRule(ALPHA, max_pairs, items, worth=worth, test=test, two_sided=two_sided), **more)  # type: ignore[arg-type]


def sds(draws: NDArray[np.float64], sd: float = SD) -> NDArray[np.float64]:
    return np.full(len(draws), sd)


def assert_within(wrong: int, runs: int, level: float = ALPHA) -> None:
    assert stats.binomtest(wrong, runs, level, "greater").pvalue > 1e-3


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("two_sided", [False, True])
def test_wrong_answers_are_at_most_as_frequent_as_stated(test: Test, two_sided: bool) -> None:
    draws = np.random.default_rng(1).normal(0.0, SD, (2000, 20)).clip(-1, 1)
    results = interim_results(draws, sds(draws), rule(test, two_sided=two_sided))
    assert_within(int((results.better | results.worse)[:, -1].sum()), 2000)


@pytest.mark.parametrize("test", TESTS)
def test_the_level_holds_for_scores_on_a_grid(test: Test) -> None:
    draws = np.round(np.random.default_rng(2).normal(0.0, SD, (2000, 20)) * 20) / 20  # ten items of each kind
    results = interim_results(draws, sds(draws, 0.041), rule(test, items=10, two_sided=True))
    assert_within(int((results.better | results.worse)[:, -1].sum()), 2000)


def test_a_long_tail_of_losses_breaks_the_t_test_alone() -> None:
    """The negative control: if the t-test passes, the caveats in the docs can go."""
    rng = np.random.default_rng(4)
    draws = SD * (1 - rng.exponential(1.0, (2000, 20)))
    t_test, chosen = (
        interim_results(draws, sds(draws, SD / 15), rule(test, items=1000, two_sided=True)).better[:, -1].sum() for test in ("t", "auto")
    )
    assert stats.binomtest(int(t_test), 2000, 2 * ALPHA, "greater").pvalue < 1e-6
    assert_within(int(chosen), 2000)


def test_an_effect_is_found_in_either_direction() -> None:
    draws = np.random.default_rng(6).normal(0.06, SD, (300, 25))
    better = interim_results(draws, sds(draws), rule(two_sided=True, max_pairs=25)).outcomes()
    worse = interim_results(-draws, sds(draws), rule(two_sided=True, max_pairs=25)).outcomes()
    assert better.better.all() and worse.worse.all() and (better.pairs == worse.pairs).all()
    assert not interim_results(-draws, sds(draws), rule(max_pairs=25)).worse.any(), "a one-sided question has no answer 'worse'"


def test_no_answer_before_four_pairs() -> None:
    draws = np.full((1, 6), 0.5) + np.linspace(0, 0.01, 6)
    assert interim_results(draws, np.array([0.02]), rule()).better[0].tolist() == [False, False, False, True, True, True]


def test_equal_gains_have_the_spread_of_the_grid() -> None:
    assert not interim_results(np.full((1, 4), 0.02), np.array([0.0]), rule(items=25)).better.any()


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize(("test", "cushions"), [*((test, Cushions()) for test in TESTS), ("auto", Cushions("e-value", "betting"))])
def test_zero_lies_outside_the_interval_exactly_when_something_was_decided(test: Test, two_sided: bool, cushions: Cushions) -> None:
    rng = np.random.default_rng(8)
    draws = np.round(rng.normal(rng.choice([-0.1, 0.0, 0.05, 0.1], (12, 1)), rng.choice([0.03, 0.2], (12, 1)), (12, 16)), 2).clip(-1, 1)
    stopping_rule = rule(test, two_sided=two_sided, max_pairs=16, cushions=cushions)
    together = interim_results(draws, sds(draws), stopping_rule)
    for i, row in enumerate(draws):
        for k in (3, 6, 16):
            interval = confidence_interval(row[:k], SD, stopping_rule)
            alone = interim_results(row[None, :k], np.array([SD]), stopping_rule)
            assert alone.better[0, -1] == together.better[i, k - 1] and alone.worse[0, -1] == together.worse[i, k - 1]
            better, worse = alone.better[0, -1] and interval.mean > 0, alone.worse[0, -1] and interval.mean < 0
            assert (interval.low > 0) == better and (interval.high < 0) == worse, (interval, row[:k])
            assert interval.low <= interval.mean <= interval.high
            assert two_sided or interval.high == math.inf


@pytest.mark.parametrize("effect", [0.0, 0.5, 1.0, 2.0])
def test_the_interval_covers_the_truth_wherever_a_trial_stops(effect: float) -> None:
    draws = np.random.default_rng(9).normal(effect * SD, SD, (1500, 25))
    stopping_rule = rule(worth=0.75, two_sided=True, max_pairs=25, reserve=0.1)
    ended = interim_results(draws, sds(draws), stopping_rule).outcomes().pairs
    missed = sum(
        not (interval := confidence_interval(row[:k], SD, stopping_rule)).low <= effect * SD <= interval.high
        for row, k in zip(draws, ended.tolist(), strict=True)
    )
    assert_within(missed, 1500)


def test_the_same_is_answered_at_its_level() -> None:
    stopping_rule = rule(two_sided=True, max_pairs=25, same_within=0.05)
    equal = np.random.default_rng(10).normal(0.0, SD, (500, 25))
    assert interim_results(equal, sds(equal), stopping_rule).outcomes().same.mean() > 0.9
    at_the_edge = np.random.default_rng(11).normal(0.05, SD, (2000, 25))
    assert_within(int(interim_results(at_the_edge, sds(at_the_edge), stopping_rule).same[:, -1].sum()), 2000, ALPHA / 2)
    assert not interim_results(equal, sds(equal), replace(stopping_rule, worth=2.0)).futile.any(), "this question is not given up"


def test_a_margin_must_be_exceeded() -> None:
    draws = np.random.default_rng(12).normal(0.05, SD, (2000, 20))
    results = interim_results(draws, sds(draws), rule(margin=0.05, two_sided=True))
    assert_within(int(results.better[:, -1].sum()), 2000)


def test_going_on_after_the_maximum_has_the_stated_error() -> None:
    draws = np.random.default_rng(13).normal(0.0, SD, (4000, 80))
    extended = rule(two_sided=True, reserve=0.1, horizon=80)
    results = interim_results(draws, sds(draws), extended)
    assert_within(int((results.better | results.worse)[:, -1].sum()), 4000)
    first = interim_results(draws[:, :20], sds(draws), replace(extended, horizon=None))
    assert (first.better == results.better[:, :20]).all() and (first.worse == results.worse[:, :20]).all(), "earlier looks must not change"


def test_a_trial_is_given_up_for_either_reason() -> None:
    row = np.array([[-0.1] * 6])
    assert interim_results(row, np.array([SD]), rule(worth=1.0)).futile[0].all()
    assert not interim_results(row, np.array([SD]), rule(worth=1.0, two_sided=True)).futile[0].all(), "it may be worse"
    flat = np.array([[0.01, -0.01] * 10])
    by_ratio = interim_results(flat, np.array([SD]), rule(worth=1.0, patience=1.5)).futile[0]
    assert not by_ratio[0] and by_ratio[5]
    by_power = interim_results(flat, np.array([SD]), rule(worth=0.5, patience=20.0)).futile[0]
    assert by_power[18] and not by_power[8], "one pair before the maximum, an answer is out of reach"
    assert not interim_results(flat, np.array([SD]), rule()).futile.any(), "worth 0 disables it"


def test_giving_up_only_reduces_power() -> None:
    draws = np.random.default_rng(14).normal(0.02, SD, (500, 20))
    found = interim_results(draws, sds(draws), rule(worth=2.5)).outcomes().better
    assert not (found & ~interim_results(draws, sds(draws), rule()).outcomes().better).any()


def test_an_answer_stays() -> None:
    row = np.array([[0.1, 0.11, 0.12, 0.1, -0.9, -0.9]])
    results = interim_results(row, np.array([SD]), rule("t", worth=2.5))
    assert results.better[0].tolist() == [False, False, False, True, True, True] and not results.futile.any()
    assert results.outcomes().pairs.tolist() == [4]


def test_an_answer_that_later_pairs_contradict_is_no_answer() -> None:
    row = np.array([0.12, 0.125, 0.12, 0.123, *[-0.09] * 6])
    interval = confidence_interval(row, SD, rule("t", two_sided=True))
    assert interim_results(row[None], np.array([SD]), rule("t", two_sided=True)).better[0, 3]
    assert interval.low < interval.mean < 0 < interval.high


def test_a_one_sided_question_about_the_same_has_two_limits() -> None:
    row = np.random.default_rng(17).normal(0.0, SD, 12)
    assert math.isfinite(confidence_interval(row, SD, rule(same_within=0.06)).high)
    assert confidence_interval(row, SD, rule()).high == math.inf


def test_the_e_value_of_a_two_sided_question_grows_in_either_direction() -> None:
    row = np.random.default_rng(15).normal(0.08, SD, 12)
    up, down = (trial_e_value(sign * row, SD, rule(two_sided=True)) for sign in (1, -1))
    assert up == pytest.approx(down) and up > 20 > trial_e_value(-row, SD, rule())


def test_running_moments_are_those_of_numpy() -> None:
    values = np.random.default_rng(16).normal(5.0, 1e-7, (3, 9))
    mean, sd = running_moments(values)
    for k in range(2, 10):
        assert mean[:, k - 1] == pytest.approx(values[:, :k].mean(1)) and sd[:, k - 1] == pytest.approx(
            values[:, :k].std(1, ddof=1), rel=1e-3
        )
    assert (sd[:, 0] == 0).all()
