"""The choice of the test: what it requires, and that it can only make a decision stricter."""

from __future__ import annotations

import numpy as np
import pytest

from stagezero.evidence import Cushions, StoppingRule, choose_cushions, describe_test, interim_results
from stagezero.evidence.assumptions import UNCALIBRATED_PAIRS, Cushion, has_long_lower_tail, skewness, uncalibrated

RNG = np.random.default_rng(1)


def test_calm_calibration_runs_need_no_further_test() -> None:
    chosen = choose_cushions(np.array([0.5, 0.52, 0.49, 0.51, 0.48, 0.5, 0.53, 0.5, 0.47, 0.51]), 0.02)
    assert chosen == Cushions() and "do not contradict" in describe_test("auto", chosen)


@pytest.mark.parametrize(
    ("scores", "sd", "better", "worse", "why"),
    [
        ([0.5] * 5, 0.02, "e-value", "e-value", "too few"),
        ([0.5] * 9 + [0.1], 0.05, "e-value", "e-value", "skewed"),
        ([0.98] * 5 + [0.985] * 5, 0.005, "betting", "none", "near the largest"),
        ([0.02] * 5 + [0.015] * 5, 0.005, "none", "betting", "near the smallest"),
        ([0.9] * 5 + [0.95] * 5, 0.1, "betting", "none", "near the largest"),
    ],
)
def test_signs_against_normal_differences_add_a_test(scores: list[float], sd: float, better: Cushion, worse: Cushion, why: str) -> None:
    chosen = choose_cushions(np.array(scores), sd)
    assert (chosen.better, chosen.worse) == (better, worse) and why in chosen.why
    assert "must agree, because" in describe_test("auto", chosen)


def test_a_metric_without_a_range_is_near_no_bound() -> None:
    assert choose_cushions(np.array([0.98] * 5 + [0.985] * 5), 0.005, bounds=None) == Cushions()


def test_normal_calibration_runs_are_seldom_called_skewed() -> None:
    flagged = sum(choose_cushions(0.5 + 0.02 * RNG.standard_normal(10), 0.03) != Cushions() for _ in range(1000))
    assert flagged < 80


def test_differences_that_are_noisier_than_calibration_are_recognised() -> None:
    sds = np.array([[0.0, 0.03, 0.03, 0.03], [0.0, 0.2, 0.2, 0.2]])
    assert uncalibrated(sds, np.full(2, 0.02), 10)[:, -1].tolist() == [False, True]
    assert not uncalibrated(sds, np.full(2, 0.02), 10)[:, 0].any(), "one pair has no spread"


def test_a_long_tail_of_losses_is_recognised_and_one_of_gains_is_not() -> None:
    row = np.array([[0.01] * 11 + [-0.5]])
    assert has_long_lower_tail(row)[0, -1] and not has_long_lower_tail(-row)[0, -1]
    assert skewness(np.full(5, 0.1)) == 0


@pytest.mark.parametrize("cushion", ["none", "e-value", "betting"])
@pytest.mark.parametrize("two_sided", [False, True])
def test_every_choice_only_makes_a_decision_stricter(cushion: Cushion, two_sided: bool) -> None:
    draws = RNG.normal(RNG.choice([-0.05, 0.0, 0.05, 0.1], (400, 1)), RNG.choice([0.01, 0.05, 0.3], (400, 1)), (400, 25)).clip(-1, 1)
    exact = interim_results(draws, np.full(400, 0.05), StoppingRule(0.05, 25, 50, test="t", two_sided=two_sided))
    chosen = interim_results(
        draws, np.full(400, 0.05), StoppingRule(0.05, 25, 50, two_sided=two_sided, cushions=Cushions(cushion, cushion))
    )
    assert not (chosen.better & ~exact.better).any() and not (chosen.worse & ~exact.worse).any()
    assert cushion != "none" or chosen.better.any()


def test_uncalibrated_noise_delays_a_decision_and_needs_an_e_value() -> None:
    draws = RNG.normal(0.3, 0.1, (200, 25))
    rule = StoppingRule(0.05, 25, 1000)
    calibrated, not_calibrated = (interim_results(draws, np.full(200, sd), rule).better for sd in (0.1, 0.005))
    assert calibrated[:, UNCALIBRATED_PAIRS - 2].mean() > 0.99 and not_calibrated[:, UNCALIBRATED_PAIRS - 2].mean() < 0.03
    assert not_calibrated[:, -1].mean() > 0.85


def test_a_requested_test_is_described_with_what_it_supposes() -> None:
    assert "normal" in describe_test("t", Cushions()) and "range" in describe_test("betting", Cushions())
    assert "symmetric" in describe_test("sign-flip", Cushions()) and "normal" in describe_test("e-value", Cushions())
